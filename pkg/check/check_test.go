// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/objects"
)

func TestALineIsOneLine(t *testing.T) {
	for _, test := range []struct {
		line Line
		want string
	}{
		{Line{OK, "config", ""}, "ok      config"},
		{Line{Warning, "uplinks", "none"}, "WARN    uplinks: none"},
		{Line{Failed, "source", "first\nsecond\n"}, "FAILED  source: first; second"},
		{Line{Failed, "a\x1b[2J", "b\rc\u202ed"}, `FAILED  a\x1b[2J: b\rc\u202ed`},
	} {
		if got := test.line.String(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

func TestTheWorstLineIsTheReports(t *testing.T) {
	for _, test := range []struct {
		levels []Level
		want   Level
	}{
		{nil, OK}, {[]Level{OK, OK}, OK}, {[]Level{Warning, OK}, Warning}, {[]Level{Warning, Failed, OK}, Failed},
	} {
		var out strings.Builder
		report := Run(t.Context(), &out, Func(func(context.Context) (lines []Line) {
			for _, l := range test.levels {
				lines = append(lines, Line{Level: l, What: "x"})
			}
			return lines
		}))
		if report.Level() != test.want || strings.Count(out.String(), "\n") != len(test.levels) {
			t.Errorf("%v: %v with\n%s", test.levels, report, out.String())
		}
	}
}

// expect compares lines with "LEVEL WHAT|part|part": their beginning, and parts of their text.
func expect(t *testing.T, got []Line, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d lines, want %d:\n%v", len(got), len(want), got)
		return
	}
	for i, line := range got {
		parts := strings.Split(want[i], "|")
		if !strings.HasPrefix(line.String(), parts[0]) {
			t.Errorf("line %d is %q, want it to begin with %q", i, line, parts[0])
		}
		for _, part := range parts[1:] {
			if !strings.Contains(line.Text, part) {
				t.Errorf("line %d is %q, want %q in it", i, line, part)
			}
		}
	}
}

func uplinkHost(addresses ...string) gateway.Host {
	link := gateway.Link{Name: "eth1", Up: true}
	for _, a := range addresses {
		link.Addresses = append(link.Addresses, netip.MustParsePrefix(a))
	}
	return gateway.Host{Links: []gateway.Link{link}}
}

func TestUplinks(t *testing.T) {
	v4 := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	both := uplinkHost("198.51.100.10/24", "2001:db8::10/64")
	down := uplinkHost()
	down.Links[0].Up = false
	for _, test := range []struct {
		name    string
		uplinks []config.Uplink
		host    gateway.Host
		want    []string
	}{
		{"none", nil, both, []string{"WARN    uplinks|none is configured"}},
		{"right", []config.Uplink{{Interface: "eth1", Gateways: v4}}, uplinkHost("198.51.100.10/24"), []string{"ok      uplinks: 1"}},
		{"IPv4 alone on a link with IPv6", []config.Uplink{{Interface: "eth1", Gateways: v4}}, both, []string{"WARN    uplinks|no IPv6 gateway"}},
		{"no gateway at all", []config.Uplink{{Interface: "eth1"}}, uplinkHost("198.51.100.10/24"), []string{"FAILED  uplinks|no IPv4 gateway"}},
		{"no such link", []config.Uplink{{Interface: "eth7"}}, both, []string{"FAILED  uplinks|no link eth7"}},
		{"a link that is down", []config.Uplink{{Interface: "eth1"}}, down, []string{"FAILED  uplinks|eth1 is down"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Uplinks = test.uplinks
			expect(t, Uplinks(cfg, test.host), test.want...)
		})
	}
}

func TestMasqueradeAddresses(t *testing.T) {
	host := uplinkHost("198.51.100.10/24")
	host.Links = append(host.Links, gateway.Link{Name: "eth2", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.2/24")}})
	cfg := config.Default()
	cfg.Uplinks = []config.Uplink{{Interface: "eth1", Gateways: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}}
	expect(t, MasqueradeAddresses(cfg, host))
	for _, a := range []string{"10.10.0.100", "198.51.100.200", "10.10.9.100", "10.10.0.101"} {
		cfg.MasqueradeAddresses = append(cfg.MasqueradeAddresses, netip.MustParseAddr(a))
	}
	expect(t, MasqueradeAddresses(cfg, host), "ok      masqueradeAddresses: [10.10.0.100 10.10.0.101] for connections that leave by eth2",
		"WARN    masqueradeAddresses: masqueradeAddresses[1]: 198.51.100.200 is only in the network of eth1, and the config lists no insideNetworks",
		"WARN    masqueradeAddresses: masqueradeAddresses[2]: 10.10.9.100 is in the network of no link of this host")
	expect(t, Uplinks(cfg, host), "ok      uplinks: 1")
}

func TestBoundary(t *testing.T) {
	host := gateway.Host{
		Links: []gateway.Link{
			{Name: "eth0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.2/24")}}, {Name: "eth1", Up: true}, {Name: "eth2", Up: true}, {Name: "lo", Up: true},
		},
		DefaultRoutes: []gateway.DefaultRoute{{Link: "eth1", Gateway: netip.MustParseAddr("198.51.100.1")}},
	}
	noRoute := host
	noRoute.DefaultRoutes = nil
	uplinks := []config.Uplink{{Interface: "eth1"}}
	routes := []gateway.ServiceRoute{{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: []netip.Addr{netip.MustParseAddr("10.10.0.11")}}}
	for _, test := range []struct {
		name    string
		uplinks []config.Uplink
		routes  []gateway.ServiceRoute
		host    gateway.Host
		closed  gateway.Families
		want    string
	}{
		{"the host forwards by itself", uplinks, nil, host, gateway.Families{}, "ok      boundary: holds on eth1"},
		{"it does, without uplinks", nil, nil, host, gateway.Families{}, "WARN    boundary: holds on eth1"},
		{"it does, without a link to the outside", nil, nil, noRoute, gateway.Families{}, "WARN    boundary: it holds on no link|list the links to the outside in uplinks"},
		{"closed", uplinks, nil, host, gateway.Families{IPv4: true, IPv6: true}, "ok      boundary: this host forwards IPv4 and IPv6 for smartnatd alone|comes in by eth0, eth1, eth2 is"},
		{"closed, except for the link to the nodes", uplinks, routes, host, gateway.Families{IPv4: true}, "ok      boundary: this host forwards IPv4 for|comes in by eth1, eth2 is|and net.ipv4.ip_forward=1 in /etc/sysctl.d opens"},
		{"closed, without uplinks", nil, nil, noRoute, gateway.Families{IPv6: true},
			"WARN    boundary: this host forwards IPv6 for|comes in by eth0, eth1, eth2 is forwarded for Mappings only|serviceRoutes|insideNetworks|net.ipv6.conf.all.forwarding=1 in /etc/sysctl.d"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Uplinks, cfg.ServiceRoutes = test.uplinks, test.routes
			test.host.ForwardingOwned = test.closed
			expect(t, Boundary(cfg, test.host), test.want)
		})
	}
}

func TestServiceRoutes(t *testing.T) {
	a, b := netip.MustParseAddr("10.10.0.11"), netip.MustParseAddr("10.10.0.12")
	routes := []gateway.ServiceRoute{{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: []netip.Addr{a, b}}}
	expect(t, ServiceRoutes(nil, gateway.Host{}))
	expect(t, ServiceRoutes(routes, gateway.Host{}), "ok      serviceRoutes")
	expect(t, ServiceRoutes(routes, gateway.Host{Unreachable: []netip.Addr{a}}), "WARN    serviceRoutes[0]|1 of 2|10.96.0.0/16")
	expect(t, ServiceRoutes(routes, gateway.Host{Unreachable: []netip.Addr{a, b}}), "FAILED  serviceRoutes[0]|10.96.0.0/16|10.10.0.11")
}

// TestMappings checks that each finding is a line.
func TestMappings(t *testing.T) {
	mapping := func(name string) *v1alpha1.Mapping {
		m := &v1alpha1.Mapping{Spec: v1alpha1.MappingSpec{
			Addresses: []string{"198.51.100.10", "203.0.113.99"}, ServiceName: "absent", Ports: []v1alpha1.MappingPort{{Port: 8080}},
		}}
		m.Namespace, m.Name = "default", name
		return m
	}
	cfg := config.Default()
	got := Mappings(objects.Snapshot{Mappings: []*v1alpha1.Mapping{mapping("one")}}, uplinkHost("198.51.100.10/24"), cfg)
	_, findings := calc.Calculate(objects.Snapshot{Mappings: []*v1alpha1.Mapping{mapping("one")}}, uplinkHost("198.51.100.10/24"), cfg)
	if len(got) != len(findings) || len(got) < 2 {
		t.Fatalf("%d lines for %d findings: %v", len(got), len(findings), got)
	}
	for _, line := range got {
		expect(t, []Line{line}, "WARN    Mapping default/one|spec.")
	}
	expect(t, Mappings(objects.Snapshot{}, gateway.Host{}, cfg), "ok      Mappings: 0")
}

func jwt(issued, expires time.Time) []byte {
	return fmt.Appendf(nil, "e30.%s.x\n", base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, issued.Unix(), expires.Unix())))
}

func TestCredentials(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	token := func(age, left time.Duration) []byte { return jwt(now.Add(-age), now.Add(left)) }
	for _, test := range []struct {
		name string
		file Credential
		want []string
	}{
		{"a token of a year", Credential{Mode: 0o600, Content: token(day, 300*day), Secret: true}, []string{"ok      k|2027-09-25"}},
		{"a token that expires in five days", Credential{Mode: 0o600, Content: token(300*day, 5*day), Secret: true}, []string{"WARN    k|2026-12-04T12:00:00Z|120h"}},
		{"a token of an hour, renewed just now", Credential{Mode: 0o600, Content: token(time.Minute, 59*time.Minute), Secret: true}, []string{"ok      k|2026-11-29T12:59:00Z"}},
		{"a token of an hour, not renewed", Credential{Mode: 0o600, Content: token(55*time.Minute, 5*time.Minute), Secret: true}, []string{"WARN    k|12:05:00Z"}},
		{"an expired token", Credential{Mode: 0o600, Content: token(2*day, -day), Secret: true}, []string{"FAILED  k|expired at 2026-11-28"}},
		{"an opaque token", Credential{Mode: 0o600, Content: []byte("abc"), Secret: true}, nil},
		{"dots, and no token", Credential{Mode: 0o600, Content: []byte("a.!.c"), Secret: true}, nil},
		{"a token that the group can read", Credential{Mode: 0o640, Content: []byte("abc"), Secret: true}, []string{"WARN    k|0640|chmod 0600 /p"}},
		{"an expired token that all can read", Credential{Mode: 0o644, Content: token(2*day, -day), Secret: true}, []string{"WARN    k|0644", "FAILED  k|expired"}},
		{"a kubeconfig that the unit does not see", Credential{Path: "/root/.kube/config", Mode: 0o600, Secret: true}, []string{"WARN    k|/root/.kube/config is below /root|/etc/smartnat"}},
		{"a folder of a similar name", Credential{Path: "/rooted/config", Mode: 0o600, Secret: true}, nil},
		{"a certificate that all can read", Credential{Mode: 0o644, Content: []byte("x")}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.file.Key = "k"
			if test.file.Path == "" {
				test.file.Path = "/p"
			}
			expect(t, Credentials([]Credential{test.file}, now), test.want...)
		})
	}
}

func TestConntrack(t *testing.T) {
	expect(t, Conntrack(100, 1000), "ok      conntrack: 100 of 1000")
	expect(t, Conntrack(799, 1000), "ok      conntrack")
	expect(t, Conntrack(800, 1000), "WARN    conntrack|nf_conntrack_max")
}

func TestForwardPolicy(t *testing.T) {
	tables := func(policy string) ruleset.Ruleset {
		return ruleset.Ruleset{Family: gateway.IPv6, Tables: []ruleset.Table{{Name: "filter", Chains: []*ruleset.Chain{
			{Name: "FORWARD", Policy: policy}, {Name: "INPUT", Policy: "DROP"},
		}}}}
	}
	expect(t, ForwardPolicy(tables("ACCEPT")))
	expect(t, ForwardPolicy(tables("DROP")), "WARN    FORWARD|IPv6|DOCKER-USER")
}

func TestForwardHook(t *testing.T) {
	own := gateway.DefaultOwnership()
	fw, filter, mine := gateway.BaseChain{Family: "inet", Table: "fw", Name: "forward"}, gateway.BaseChain{Family: "ip", Table: "filter", Name: "FORWARD"},
		gateway.BaseChain{Family: "inet", Table: "filter", Name: "FORWARD"}
	expect(t, ForwardHook(nil, "iptables", false, own))
	expect(t, ForwardHook([]gateway.BaseChain{fw, filter}, "nftables", true, own),
		"WARN    nftables: chain forward of table inet fw drops|an accept in nftables does not count|nft insert rule inet fw forward ct mark and 0x10 == 0x10 accept")
	expect(t, ForwardHook([]gateway.BaseChain{filter}, "iptables", false, own), "WARN    nftables: chain FORWARD of table ip filter")
	expect(t, ForwardHook([]gateway.BaseChain{mine}, "iptables", true, own), "WARN    nftables: chain FORWARD of table inet filter")
}

func TestIPRules(t *testing.T) {
	own := gateway.DefaultOwnership()
	rules := []IPRule{
		{gateway.IPv4, 0, "0: from all lookup local"}, {gateway.IPv4, own.RulePriority + 1, "later"}, {gateway.IPv4, 32766, "main"},
	}
	expect(t, IPRules(rules, own), "ok      ip rules")
	expect(t, IPRules(append(rules, IPRule{gateway.IPv6, 5210, "5210: fwmark 0x80000"}), own), "WARN    ip rules|5210: fwmark 0x80000|IPv6|ownership.rulePriority")
}

func TestNetworkd(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string
		want  string
	}{
		{"by default", nil, "WARN    systemd-networkd|ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no"},
		{"both", []string{"[Network]\nManageForeignRoutingPolicyRules=no\n ManageForeignRoutes = False\n"}, "ok      systemd-networkd"},
		{"one", []string{"[Network]\nManageForeignRoutingPolicyRules=no\n"}, "WARN    systemd-networkd|set ManageForeignRoutes=no in"},
		{"another section", []string{"[DHCPv4]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"}, "WARN    systemd-networkd"},
		{"the last counts", []string{"[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n", "[Network]\n#ManageForeignRoutes=no\nManageForeignRoutes=yes\n"}, "WARN    systemd-networkd|ManageForeignRoutes=no"},
	} {
		t.Run(test.name, func(t *testing.T) { expect(t, Networkd(test.files), test.want) })
	}
}

// TestRules checks the names of refused features, and the package to install on each system.
func TestRules(t *testing.T) {
	refuse := func(names ...string) func(gateway.State) error {
		features := Features(true, true)
		i := -1
		return func(gateway.State) error {
			if i++; slices.Contains(names, features[i].Name) {
				return errors.New("line 3: No such file or directory")
			}
			return nil
		}
	}
	const el, ubuntu = "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "ID=ubuntu\nID_LIKE=debian\n"
	expect(t, Rules("iptables", Features(true, true), refuse(), el, "6.12"), "ok      iptables rules")
	expect(t, Rules("iptables", Features(true, true), refuse("forwarding", "clampMSS"), el, "6.12"), "FAILED  iptables rules: forwarding|line 3|kernel-modules-extra-6.12|nft_compat|dataplane: nftables")
	expect(t, Rules("nftables", Features(true, true), refuse("forwarding", "clampMSS"), el, "5.4"), "FAILED  nftables rules: forwarding|nft_numgen|it needs Linux 5.9, and this is 5.4")
	expect(t, Rules("iptables", Features(true, true), refuse("session affinity", "clampMSS"), ubuntu, "6.8"),
		"WARN    iptables rules: session affinity|xt_recent|linux-modules-extra-6.8", "WARN    iptables rules: clampMSS|xt_TCPMSS")
	expect(t, Rules("iptables", Features(true, true), refuse("clampMSS"), "", "6.1"), "WARN    iptables rules|kernel 6.1")
	expect(t, Rules("nftables", Features(true, true), refuse("clampMSS", "endpointChoice: maglev"), "", "6.1"),
		"WARN    nftables rules: clampMSS|nft_exthdr", "FAILED  nftables rules: endpointChoice: maglev|nft_hash")
	var names []string
	for _, f := range Features(false, false) {
		names = append(names, f.Name)
	}
	for _, name := range []string{"clampMSS", "endpointChoice: maglev"} {
		if slices.Contains(names, name) {
			t.Errorf("%s is tried although it is not configured", name)
		}
	}
	if diff := cmp.Diff("forwarding", names[0]); diff != "" {
		t.Errorf("the essential feature is not tried first: %s", diff)
	}
}

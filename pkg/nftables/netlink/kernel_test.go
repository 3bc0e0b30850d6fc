// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// everything returns a state that needs every kind of chain, rule, set and expression.
func everything(family gateway.Family) gateway.State {
	external, pod, network, inside := "198.51.100.10", "10.244.1.", "192.0.2.0/24", "10.0.0.0/8"
	if family == gateway.IPv6 {
		external, pod, network, inside = "2001:db8::10", "fd00::", "2001:db8:2::/48", "fd00::/8"
	}
	address := netip.MustParseAddr(external)
	var backends []gateway.Backend
	for _, last := range []string{"1", "2", "3"} {
		backends = append(backends, gateway.Backend{Address: netip.MustParseAddr(pod + last), Port: 8080})
	}
	forward := func(p gateway.Protocol, first, last uint16, change func(*gateway.Forward)) *gateway.Forward {
		return gatewaytest.With(gatewaytest.Forward(address, p, first, last, backends...), change)
	}
	none := func(*gateway.Forward) {}
	return gateway.State{
		Forwards: gatewaytest.Sort([]*gateway.Forward{
			forward(gateway.TCP, 80, 80, none),
			forward(gateway.TCP, 81, 81, func(f *gateway.Forward) { f.Backends = nil }),
			forward(gateway.TCP, 82, 82, func(f *gateway.Forward) { f.SourcesDeny = true }),
			forward(gateway.TCP, 83, 83, func(f *gateway.Forward) { f.Sources = gatewaytest.Prefixes(network) }),
			forward(gateway.TCP, 84, 84, func(f *gateway.Forward) { f.Masquerade = false }),
			forward(gateway.TCP, 85, 85, func(f *gateway.Forward) { f.Affinity = time.Hour }),
			forward(gateway.UDP, 85, 85, func(f *gateway.Forward) { f.Affinity = time.Hour }),
			forward(gateway.TCP, 1000, 1999, none),
			forward(gateway.UDP, 1000, 1999, func(f *gateway.Forward) { f.Shift = true }),
			forward(gateway.UDP, 3001, 3010, func(f *gateway.Forward) { f.Shift = true }),
			forward(gateway.UDP, 8080, 8090, func(f *gateway.Forward) { f.Shift = true }),
		}),
		Uplinks:        []gateway.Uplink{{Link: "eth1", Number: 1}, {Link: "eth2", Number: 2}},
		Outside:        []string{"eth3"},
		InsideNetworks: gatewaytest.Prefixes(inside),
		Egresses: []gateway.Egress{
			{Address: address, Uplink: 1, Sources: gatewaytest.Addrs(pod + "7")},
		},
		ForwardingOwned: gateway.Families{IPv4: true, IPv6: true}, InsideLinks: []string{"eth0"},
		BridgeNetfilter: gateway.Families{IPv4: true, IPv6: true},
		ClampMSS:        true,
		MasqueradePorts: gateway.PortRange{First: 20000, Last: 60000},
	}
}

// load writes a table to the kernel.
func load(t *testing.T, c *netlink.Client, table ruleset.Table) {
	t.Helper()
	tx := netlink.NewTransaction("smartnat", table.Family)
	tx.AddTable(c.TableFlags())
	for _, h := range table.Helpers {
		tx.AddHelper(h)
	}
	for _, f := range table.Flowtables {
		tx.AddFlowtable(f)
	}
	for _, s := range table.Sets {
		tx.AddSet(s)
	}
	for _, c := range table.Chains {
		tx.AddChain(c)
	}
	for _, c := range table.Chains {
		tx.AddRules(c.Name, c.Rules)
	}
	for _, s := range table.Sets {
		tx.AddElements(s.Name, s.Schema, s.Elements)
	}
	bridge := netlink.NewTransaction(ruleset.BridgeTable("smartnat", table.Family), ruleset.BridgeFamily)
	bridge.AddTable(c.TableFlags())
	for _, c := range table.Bridge {
		bridge.AddChain(c)
		bridge.AddRules(c.Name, c.Rules)
	}
	tx.Append(bridge)
	if err := c.Commit(tx); err != nil {
		t.Fatal(err)
	}
}

// TestReadReturnsWhatWasWritten loads tables with every expression into the kernel and reads them back.
func TestReadReturnsWhatWasWritten(t *testing.T) {
	testenv.RequireTool(t, "nft")
	t.Run("rules", func(t *testing.T) {
		testenv.NewNetNS(t)
		readBack(t, everything)
	})
	t.Run("flowtables", func(t *testing.T) {
		testenv.NewNetNS(t)
		testenv.RequireFlowtable(t)
		readBack(t, func(family gateway.Family) gateway.State { return flowing(everything(family), "lo") })
	})
}

// flowing returns the state with links whose connections bypass the rules.
func flowing(state gateway.State, links ...string) gateway.State {
	state.Flowtable.Families, state.Flowtable.Links = gateway.Families{IPv4: true, IPv6: true}, nil
	for i, link := range links {
		state.Flowtable.Links = append(state.Flowtable.Links, gateway.FlowLink{Name: link, Index: i})
	}
	return state
}

func readBack(t *testing.T, everything func(gateway.Family) gateway.State) {
	t.Helper()
	// Without an owner it runs on kernels before Linux 6.9 too.
	c, err := netlink.New(netlink.Options{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, family := range []gateway.Family{gateway.IPv4, gateway.IPv6} {
		for name, want := range map[string]ruleset.Table{
			"build": rules.Build(everything(family), family, gateway.DefaultOwnership()),
			"guard": rules.Guard(everything(family), family, gateway.DefaultOwnership()),
		} {
			load(t, c, want)
			got, err := c.Read("smartnat", family)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("IPv%d %s (-written +read):\n%s", family, name, diff)
			}
			// Some registers of a rule make nft(8) abort, and it prints a link's name only if it knows the order of its bytes.
			if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || !strings.Contains(string(out), `"eth1"`) || strings.Contains(string(out), `""`) {
				t.Errorf("IPv%d %s: nft list ruleset: %v\n%s", family, name, err, out)
			}
			tx := netlink.NewTransaction("smartnat", family)
			tx.DeleteTable()
			bridge := netlink.NewTransaction(ruleset.BridgeTable("smartnat", family), ruleset.BridgeFamily)
			bridge.DeleteTable()
			tx.Append(bridge)
			if err := c.Commit(tx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

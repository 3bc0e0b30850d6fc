// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// kubeProxyNFT is the part of kube-proxy's table that says which NodePorts it takes.
const kubeProxyNFT = `
table FAMILY kube-proxy {
	map service-nodeports { type inet_proto . inet_service : verdict; elements = { tcp . 30080 : drop, udp . 30053 : drop, sctp . 30099 : drop } }
	chain nodeports { meta l4proto . th dport vmap @service-nodeports; }
}`

// portmapNFT is what the CNI plugin portmap writes with its backend nftables.
const portmapNFT = `
table ip cni_hostport {
	chain hostports { tcp dport 8088 dnat to 10.244.1.2:80 comment "a" ; }
	chain hostip_hostports { ip daddr 198.51.100.7 udp dport 8089 dnat to 10.244.1.2:80; }
}`

// kubeProxyIPTables is what kube-proxy and portmap write with iptables, for the rules that take ports.
const kubeProxyIPTables = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:UNRELATED - [0:0]
-A KUBE-SERVICES -m comment --comment "nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/echo:tcp" -m tcp --dport 30080 -j RETURN
-A KUBE-NODEPORTS -p udp -m comment --comment "default/echo:udp" -m udp --dport 30053 -j RETURN
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name" -m multiport --dports 8088,9000:9010,8090 -j RETURN
-A UNRELATED -p tcp -m tcp --dport 4000 -j RETURN
COMMIT
`

func claim(protocol gateway.Protocol, address string, first, last uint16, kind string) gateway.Claim {
	return gateway.Claim{Protocol: protocol, Address: netip.MustParseAddr(address), Ports: gateway.PortRange{First: first, Last: last}, Kind: kind}
}

// TestOtherRules checks what rules of kube-proxy and portmap say, whichever program of the kernel has them.
func TestOtherRules(t *testing.T) {
	byIPTables := func(every string) []gateway.Claim {
		return []gateway.Claim{
			claim("tcp", every, 8088, 8088, "hostPort"), claim("tcp", every, 8090, 8090, "hostPort"), claim("tcp", every, 9000, 9010, "hostPort"),
			claim("tcp", every, 30080, 30080, "NodePort"), claim("udp", every, 30053, 30053, "NodePort"),
		}
	}
	for _, tc := range []struct {
		name, program, input string
		want                 gateway.OtherRules
	}{
		{name: "nothing", program: "nft -f -"},
		{name: "a table of another program", program: "nft -f -", input: "table ip other { chain KUBE-NODEPORTS { tcp dport 1 accept; }; }"},
		{
			name: "kube-proxy with nftables", program: "nft -f -", input: strings.ReplaceAll(kubeProxyNFT, "FAMILY", "ip6"),
			want: gateway.OtherRules{ServiceProxy: "kube-proxy (nftables)", Claims: []gateway.Claim{
				claim("sctp", "::", 30099, 30099, "NodePort"), claim("tcp", "::", 30080, 30080, "NodePort"), claim("udp", "::", 30053, 30053, "NodePort"),
			}},
		},
		{
			name: "portmap with nftables", program: "nft -f -", input: portmapNFT,
			want: gateway.OtherRules{Claims: []gateway.Claim{
				claim("tcp", "0.0.0.0", 8088, 8088, "hostPort"), claim("udp", "198.51.100.7", 8089, 8089, "hostPort"),
			}},
		},
		{
			name: "iptables in nf_tables", program: "iptables-nft-restore", input: kubeProxyIPTables,
			want: gateway.OtherRules{ServiceProxy: "kube-proxy (iptables)", Claims: byIPTables("0.0.0.0")},
		},
		{
			name: "ip6tables in nf_tables", program: "ip6tables-nft-restore", input: kubeProxyIPTables,
			want: gateway.OtherRules{ServiceProxy: "kube-proxy (iptables)", Claims: byIPTables("::")},
		},
		{
			name: "iptables in legacy tables", program: "iptables-legacy-restore", input: kubeProxyIPTables,
			want: gateway.OtherRules{ServiceProxy: "kube-proxy (iptables)", Claims: byIPTables("0.0.0.0")},
		},
		{
			name: "ip6tables in legacy tables", program: "ip6tables-legacy-restore", input: kubeProxyIPTables,
			want: gateway.OtherRules{ServiceProxy: "kube-proxy (iptables)", Claims: byIPTables("::")},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			argv := strings.Fields(tc.program)
			testenv.RequireTool(t, argv[0])
			log, _ := logtest.NewNullLogger()
			h := New(log)
			if _, err := h.OtherRules(); err != nil { // what it remembers must not count later
				t.Fatal(err)
			}
			load := exec.Command(argv[0], argv[1:]...)
			load.Stdin = strings.NewReader(tc.input)
			if out, err := load.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", tc.program, err, out)
			}
			for range 2 { // read, and remembered
				got, err := h.OtherRules()
				if err != nil {
					t.Fatal(err)
				}
				if diff := gocmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			}
		})
	}
}

// TestLegacyRulesOfTheSameSize: a NodePort may change to another one without a change of the table's size.
func TestLegacyRulesOfTheSameSize(t *testing.T) {
	testenv.NewNetNS(t)
	testenv.RequireTool(t, "iptables-legacy-restore")
	log, _ := logtest.NewNullLogger()
	h := New(log)
	for _, port := range []uint16{30080, 30081} {
		load := exec.Command("iptables-legacy-restore")
		load.Stdin = strings.NewReader(strings.ReplaceAll(kubeProxyIPTables, "30080", strconv.Itoa(int(port))))
		if out, err := load.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got, err := h.OtherRules()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(got.Claims, claim("tcp", "0.0.0.0", port, port, "NodePort")) {
			t.Errorf("the claims lack port %d: %v", port, got.Claims)
		}
	}
}

// TestLegacyRulesThatAreReplaced reads a table whose size changes between the reading of its size and of its rules.
func TestLegacyRulesThatAreReplaced(t *testing.T) {
	for _, tc := range []struct {
		replaced int
		want     error
	}{{0, nil}, {dumpAttempts - 1, nil}, {dumpAttempts, unix.EAGAIN}} {
		infos, replaced := 0, tc.replaced
		_, rules, err := legacyRules(iptablesNAT, func(option int, buffer []byte) error {
			if option == getInfo {
				infos++
				binary.NativeEndian.PutUint32(buffer[infoEntries:], uint32(infos))
				return nil
			}
			if replaced--; replaced >= 0 {
				return unix.EAGAIN
			}
			return nil
		})
		if !errors.Is(err, tc.want) {
			t.Errorf("replaced %d times: error %v, want %v", tc.replaced, err, tc.want)
		}
		if err == nil && len(rules) != tc.replaced+1 {
			t.Errorf("replaced %d times: %d bytes, want %d: the size has to be read again", tc.replaced, len(rules), tc.replaced+1)
		}
	}
}

// TestOtherRulesThatCannotBeRead expects the last result: without it, a node would be taken for another host, and cut off its cluster.
func TestOtherRulesThatCannotBeRead(t *testing.T) {
	testenv.NewNetNS(t)
	log, _ := logtest.NewNullLogger()
	h := New(log)
	want := gateway.OtherRules{ServiceProxy: "kube-proxy (iptables)", Claims: []gateway.Claim{claim("tcp", "0.0.0.0", 30080, 30080, "NodePort")}}
	fail := error(unix.EAGAIN)
	h.others.legacy = func() (gateway.OtherRules, error) { return want, fail }
	if host, err := h.Observe(); !errors.Is(err, fail) {
		t.Errorf("before any result: error %v, %v", err, host.Others)
	}
	for _, fail = range []error{nil, unix.EAGAIN, nil} {
		host, err := h.Observe()
		if err != nil {
			t.Fatal(err)
		}
		if !host.Others.Equal(want) {
			t.Errorf("with error %v: %v, want %v", fail, host.Others, want)
		}
	}
}

// TestLegacyReadingsAreBounded expects that tables which take long to read are read again rarely, and small ones each time.
func TestLegacyReadingsAreBounded(t *testing.T) {
	for _, tc := range []struct {
		name  string
		takes time.Duration
		reads int
	}{
		{"few rules", 10 * time.Microsecond, 20},
		{"10,000 ports of ours", 50 * time.Millisecond, 7},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reads := 0
				o := others{readings: legacyReadings(), read: true, legacy: func() (gateway.OtherRules, error) {
					reads++
					time.Sleep(tc.takes)
					return gateway.OtherRules{}, nil
				}}
				for range 20 {
					if _, err := o.readLegacy(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(3 * time.Second)
				}
				if reads != tc.reads {
					t.Errorf("%d readings in a minute, want %d", reads, tc.reads)
				}
			})
		})
	}
}

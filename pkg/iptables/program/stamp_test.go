// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// many returns one address with the given number of ports, each with three endpoints.
func many(family gateway.Family, ports int) gateway.State {
	address, inside := "198.51.100.10", "10.244.0.0"
	if family == gateway.IPv6 {
		address, inside = "2001:db8:1::10", "fd00:244::"
	}
	var state gateway.State
	endpoint := netip.MustParseAddr(inside)
	for i := range ports {
		f := &gateway.Forward{
			Frontend:   gateway.Frontend{Address: netip.MustParseAddr(address), Protocol: gateway.TCP, Ports: gateway.Port(uint16(1 + i))},
			Owner:      fmt.Sprintf("default/echo-%d", i/10),
			Masquerade: true,
			Direct:     true,
		}
		for range 3 {
			endpoint = endpoint.Next()
			f.Backends = append(f.Backends, gateway.Backend{Address: endpoint, Port: 8080})
		}
		state.Forwards = append(state.Forwards, f)
	}
	return state
}

func (k kernel) stamps(t testing.TB) (stamp, digest uint64) {
	t.Helper()
	stamp, err := k.Stamp(k.family)
	if err != nil {
		t.Fatal(err)
	}
	if digest, err = k.Digest(k.family); err != nil {
		t.Fatal(err)
	}
	return stamp, digest
}

func (k kernel) iptables(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command(string(k.programs[k.family]), strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
}

// TestStampsTellOfWrites: the digest changes with every write, and the stamp unless a legacy rule was replaced by one of the
// same size.
func TestStampsTellOfWrites(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		if k.family == gateway.IPv4 {
			k.iptables(t, "-t raw -A PREROUTING -p udp -j ACCEPT") // a table that we do not use
		}
		k.apply(t, rules.Build(many(k.family, 20), k.family, rules.Options{Ownership: own}))
		address := map[gateway.Family]string{gateway.IPv4: "192.0.2.1", gateway.IPv6: "2001:db8::1"}[k.family]
		for _, write := range []struct {
			args string
			// sameSize means that the legacy tables keep their sizes.
			sameSize bool
		}{
			{args: "-t nat -F SMARTNAT-SERVICES"},
			{args: "-t filter -A INPUT -s " + address + " -j ACCEPT"},
			{args: "-t filter -R INPUT 2 -p tcp -j ACCEPT", sameSize: true},
			{args: "-t filter -P FORWARD DROP", sameSize: true},
			{args: "-t mangle -D PREROUTING 1"},
			{args: "-t mangle -N OTHER"},
		} {
			stamp, digest := k.stamps(t)
			for range 2 { // reading changes nothing
				if s, d := k.stamps(t); s != stamp || d != digest {
					t.Errorf("before %q, without a write: stamp unchanged %t, digest unchanged %t", write.args, s == stamp, d == digest)
				}
			}
			k.iptables(t, write.args)
			s, d := k.stamps(t)
			if d == digest {
				t.Errorf("%q: the digest did not change", write.args)
			}
			if same := write.sameSize && k.variant == Legacy; (s == stamp) != same {
				t.Errorf("%q: stamp unchanged %t, want %t", write.args, s == stamp, same)
			}
		}
	})
}

// TestAlone: nf_tables can prove that ours was the only write, and legacy never can.
func TestAlone(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		for ports, others := range []int{0, 0, 1, 0} {
			before, _ := k.stamps(t)
			batch := ruleset.Diff(k.read(t), rules.Build(many(k.family, 10*ports), k.family, rules.Options{Ownership: own}), own.ChainPrefix)
			for range others {
				k.iptables(t, "-t mangle -A FORWARD -j ACCEPT")
			}
			if err := k.Restore(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			after, _ := k.stamps(t)
			if want := k.variant == NFTables && others == 0; k.IsOnlyWrite(before, after, len(batch.Tables)) != want {
				t.Errorf("write %d of %d tables with %d other writes: IsOnlyWrite returns %t, want %t", ports, len(batch.Tables), others, !want, want)
			}
		}
	})
}

// TestPacketsChangeNoStamp: packet counters are not part of a rule.
func TestPacketsChangeNoStamp(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		k.apply(t, rules.Build(many(k.family, 3), k.family, rules.Options{Ownership: own}))
		stamp, digest := k.stamps(t)
		before := k.counted(t)
		k.send(t)
		if k.counted(t) == before {
			t.Fatal("no packet was counted")
		}
		if s, d := k.stamps(t); s != stamp || d != digest {
			t.Errorf("after a packet: stamp unchanged %t, digest unchanged %t", s == stamp, d == digest)
		}
	})
}

func BenchmarkStamp(b *testing.B) {
	for _, backend := range []string{"legacy", "nft"} {
		for _, read := range []string{"stamp", "digest", "save"} {
			b.Run(fmt.Sprintf("%s/%s", backend, read), func(b *testing.B) { benchmarkStamp(b, backend, read) })
		}
	}
}

func benchmarkStamp(b *testing.B, backend, read string) {
	testenv.RequireTool(b, "iptables-"+backend)
	testenv.NewNetNS(b)
	runner, err := New(Options{Variant: variantOf(backend), IPv6: true})
	if err != nil {
		b.Fatal(err)
	}
	want := rules.Build(many(gateway.IPv4, 10_000), gateway.IPv4, rules.Options{Ownership: own})
	if err := runner.Restore(b.Context(), ruleset.Diff(ruleset.Ruleset{}, want, own.ChainPrefix)); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		var err error
		switch read {
		case "stamp":
			_, err = runner.Stamp(gateway.IPv4)
		case "digest":
			_, err = runner.Digest(gateway.IPv4)
		default:
			_, err = runner.Save(b.Context(), gateway.IPv4)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// send sends a packet through the OUTPUT rules.
func (k kernel) send(t *testing.T) {
	t.Helper()
	network, loopback := "udp4", "127.0.0.1:9"
	if k.family == gateway.IPv6 {
		network, loopback = "udp6", "[::1]:9"
	}
	conn, err := net.Dial(network, loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

// counted returns the packet counters of OUTPUT as the program prints them.
func (k kernel) counted(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(string(k.programs[k.family]), "-t", "mangle", "-L", "SMARTNAT-OUTPUT", "-v", "-x", "-n").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	listed, err := exec.Command(string(k.programs[k.family]), "-t", "mangle", "-L", "OUTPUT", "-v", "-x", "-n").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, listed)
	}
	return string(out) + string(listed)
}

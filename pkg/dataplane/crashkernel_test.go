// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

// crashes records how packets are handled after each crash.
type crashes struct {
	// behind names the last write before each crash.
	behind     []string
	judgements []judgement
}

// TestKernelCrashAfterCrash does the same as TestCrashAfterCrash on the real kernel.
func TestKernelCrashAfterCrash(t *testing.T) {
	everything := changes()
	states := []change{
		{name: "the first start", after: limited(sources(100))},
		{name: "a few sources of many change", after: limited(sources(104)[4:])},
		{name: "many sources are replaced", after: limited(sources(300)[200:])},
		everything[len(everything)-1],
		{name: "nothing any more", after: gateway.State{}},
	}
	var all []gateway.State
	for _, s := range states {
		all = append(all, s.after)
	}
	probes := probes(all...)
	onHosts(t, func(t *testing.T, h *host) {
		clean := h.dump(t)
		var walked []string
		total := 0
		before := judge(look(t, h.options()), probes)
		for _, s := range states {
			seen := h.crashAllTheWay(t, s, probes)
			after := seen.judgements[len(seen.judgements)-1]
			for i, got := range seen.judgements {
				expectBetween(t, seen.behind[i], before, after, got)
			}
			total += len(seen.judgements)
			before = after
			if result := apply(t, h.start(), s.after); !result.Empty() {
				t.Errorf("%s: the next Apply still changes %s", s.name, result)
			}
			walked = append(walked, h.dump(t))
		}
		t.Logf("%d crashes, %d packets after each", total, len(probes))
		d := h.start()
		h.cleanup(t, d, clean)
		for i, s := range states {
			apply(t, d, s.after)
			// iptables-save lists chains in the order of their creation.
			if diff := cmp.Diff(sortedLines(h.dump(t)), sortedLines(walked[i])); diff != "" {
				t.Errorf("%s (-never killed +killed all the way):\n%s", s.name, diff)
			}
		}
		h.cleanup(t, d, clean)
	})
}

// crashAllTheWay brings the kernel to the state by processes that make one or two writes each.
func (h *host) crashAllTheWay(t *testing.T, c change, probes []probe) crashes {
	t.Helper()
	const most = 100
	var seen crashes
	for n := range most {
		killed, life := mortal(h.options(), 1+n%2)
		_, err := killed.Apply(t.Context(), c.after)
		if err != nil && !errors.Is(err, errCrashed) {
			t.Fatal(err)
		}
		seen.behind = append(seen.behind, fmt.Sprintf("%s, killed after %q", c.name, life.done))
		seen.judgements = append(seen.judgements, judge(look(t, h.options()), probes))
		if len(life.done) == 0 {
			return seen
		}
	}
	t.Fatalf("%s: not done after %d crashes: %q", c.name, most, seen.behind)
	return seen
}

// TestKernelTornBatch cuts off the input of iptables-restore, as a crash does. A table whose text is incomplete must not
// change.
func TestKernelTornBatch(t *testing.T) {
	onIPTables(t, func(t *testing.T, h *host, b *iptablesBackend) {
		state := gateway.State{
			Forwards: []*gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")},
			Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24")}},
		}
		observe := func() ruleset.Ruleset {
			rs, err := b.tables.Save(t.Context(), gateway.IPv4)
			if err != nil {
				t.Fatal(err)
			}
			return rs
		}
		restore := func(input string, args ...string) error {
			cmd := exec.CommandContext(t.Context(), "iptables-"+b.variant+"-restore", args...)
			cmd.Stdin = strings.NewReader(input)
			return cmd.Run()
		}
		before, reset := observe(), run(t, "iptables-"+b.variant+"-save", "")
		want := rules.Build(state, gateway.IPv4, rules.Options{Ownership: gateway.DefaultOwnership(), RandomFully: b.tables.RandomFully()})
		batch := ruleset.Diff(before, want, gateway.DefaultOwnership().ChainPrefix)
		whole, at, torn := string(batch.Text()), 0, 0
		for line := range strings.Lines(whole) {
			ends := []int{at + len(line)/2, at + len(line)}
			if line != "COMMIT\n" { // The other lines are many and alike: cut each in one way.
				ends = ends[torn%2:][:1]
			}
			for _, end := range ends {
				// Ignore the error: after a crash, no process reads it.
				err := restore(whole[:end], "--noflush")
				done := batch
				done.Tables = batch.Tables[:strings.Count(whole[:end], "COMMIT\n")]
				if diff := cmp.Diff(text(ruleset.Apply(before, done)), text(observe())); diff != "" {
					t.Fatalf("cut off after %q (%v): (-whole tables +got):\n%s", whole[at:end], err, diff)
				}
				if torn++; len(done.Tables) == 0 {
					continue
				}
				if err := restore(reset); err != nil {
					t.Fatal(err)
				}
			}
			at += len(line)
		}
		t.Logf("cut off %d times, %d tables", torn, len(batch.Tables))
	})
}

// TestKernelCrashBetweenRecordAndParameter expects that after a crash between recording the old value of a parameter and
// setting it, cleanup changes nothing.
func TestKernelCrashBetweenRecordAndParameter(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		if err := sysctl.New(h.runtimeDir).Set("net/ipv4/ip_forward", "1"); err != nil {
			t.Fatal(err)
		}
		h.write(t, "net/ipv4/ip_forward", "0")
		apply(t, h.start(), full())
		h.cleanup(t, h.start(), before)
	})
}

// TestKernelCrashBeforeConnectionsAreCut expects that after a crash before EndStale, the next process checks all connections.
func TestKernelCrashBeforeConnectionsAreCut(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		state := func(sources ...netip.Prefix) gateway.State {
			s := gateway.State{Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes(n.connected)}}}
			for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
				f := forward(n.external, 80, n.pod1)
				f.Protocol, f.Sources = protocol, sources
				s.Forwards = append(s.Forwards, f)
			}
			return s
		}
		client := addr(n.client)
		other := netip.PrefixFrom(client.Next(), client.BitLen())
		apply(t, h.start(), state())
		var conns []net.Conn
		for _, protocol := range []string{"tcp", "udp"} {
			conn := dial(t, protocol, n.external)
			ask(t, conn, "pod1")
			conns = append(conns, conn)
		}
		writes := h.plannedWrites(t, state(other))
		killed, life := mortal(h.options(), writes)
		if _, err := killed.Apply(t.Context(), state(other)); !errors.Is(err, errCrashed) || len(life.done) != writes || !strings.HasPrefix(life.done[0], n.name+" ") {
			t.Fatalf("err = %v, killed after %q; want it killed after the rules", err, life.done)
		}
		if result := apply(t, h.start(), state(other)); result.Connections != len(conns) || result.Writes > 0 {
			t.Errorf("the next process: %s; want %d connections ended and nothing else", result, len(conns))
		}
		for _, conn := range conns {
			ask(t, conn, silence)
		}
	})
}

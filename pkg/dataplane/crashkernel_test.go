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
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/rules"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

// crashes is what became of packets where a process was killed, and started again.
type crashes struct {
	// behind has the writes that were the last.
	behind     []string
	judgements []judgement
}

// On the real kernel, a process that is killed behind each write is safe there, and gets where it was to get.
func TestKernelCrashAfterCrash(t *testing.T) {
	everything := changes()
	states := []change{
		{name: "the first start", after: limited(sources(100))},
		{name: "a few sources of many change", after: limited(sources(104)[4:])},
		{name: "many sources become others", after: limited(sources(300)[200:])},
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
				t.Errorf("%s: all is done and yet there is something to do: %s", s.name, result)
			}
			walked = append(walked, h.dump(t))
		}
		t.Logf("%d crashes, %d packets behind each", total, len(probes))
		d := h.start()
		h.cleanup(t, d, clean)
		for i, s := range states {
			apply(t, d, s.after)
			// iptables-save names chains in the order in which they were made.
			if diff := cmp.Diff(sortedLines(h.dump(t)), sortedLines(walked[i])); diff != "" {
				t.Errorf("%s (-never killed +killed all the way):\n%s", s.name, diff)
			}
		}
		h.cleanup(t, d, clean)
	})
}

// crashAllTheWay brings the kernel to the state by processes that make a write or two each.
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
		seen.behind = append(seen.behind, fmt.Sprintf("%s, killed behind %q", c.name, life.done))
		seen.judgements = append(seen.judgements, judge(look(t, h.options()), probes))
		if len(life.done) == 0 {
			return seen
		}
	}
	t.Fatalf("%s: not done after %d crashes: %q", c.name, most, seen.behind)
	return seen
}

// Whoever is killed while it feeds iptables-restore leaves it a text that is cut off. Each table that is not whole stays as it was.
func TestKernelTornBatch(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		state := gateway.State{
			Forwards: []*gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")},
			Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24")}},
		}
		observe := func() netfilter.Ruleset {
			rs, err := h.tables.Save(t.Context(), netfilter.IPv4)
			if err != nil {
				t.Fatal(err)
			}
			return rs
		}
		restore := func(input string, args ...string) error {
			cmd := exec.CommandContext(t.Context(), "iptables-"+h.backend+"-restore", args...)
			cmd.Stdin = strings.NewReader(input)
			return cmd.Run()
		}
		before, reset := observe(), run(t, "iptables-"+h.backend+"-save", "")
		want := rules.Build(state, netfilter.IPv4, rules.Options{Ownership: gateway.DefaultOwnership(), RandomFully: h.tables.RandomFully()})
		batch := netfilter.Diff(before, want, gateway.DefaultOwnership().ChainPrefix)
		whole, at, torn := string(batch.Text()), 0, 0
		for line := range strings.Lines(whole) {
			ends := []int{at + len(line)/2, at + len(line)}
			if line != "COMMIT\n" { // The others are many and alike: each is cut in one way.
				ends = ends[torn%2:][:1]
			}
			for _, end := range ends {
				// The error is of no interest: nobody is there to read it.
				err := restore(whole[:end], "--noflush")
				done := batch
				done.Tables = batch.Tables[:strings.Count(whole[:end], "COMMIT\n")]
				if diff := cmp.Diff(text(netfilter.Apply(before, done)), text(observe())); diff != "" {
					t.Fatalf("cut off behind %q (%v): (-whole tables +got):\n%s", whole[at:end], err, diff)
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
		t.Logf("%d times cut off, %d tables", torn, len(batch.Tables))
	})
}

// Whoever is killed between the record of what a parameter was and the parameter itself has changed nothing that cleanup
// could not put back.
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

// Whoever is killed before it has cut connections leaves that to the next process, which looks at all of them.
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
		killed, life := mortal(h.options(), 1)
		if _, err := killed.Apply(t.Context(), state(other)); !errors.Is(err, errCrashed) || fmt.Sprint(life.done) != fmt.Sprintf("[%s nat]", n.name) {
			t.Fatalf("err = %v, behind %q; want it killed behind the rules", err, life.done)
		}
		if result := apply(t, h.start(), state(other)); result.Connections != len(conns) || len(result.Batches) > 0 {
			t.Errorf("the next process: %s; want it to cut the %d connections and no more", result, len(conns))
		}
		for _, conn := range conns {
			ask(t, conn, silence)
		}
	})
}

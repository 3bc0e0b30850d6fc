// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/rtnetlink"
	"github.com/smartnat/smartnat/pkg/sysctl"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// host is a host in a network namespace that already has foreign rules and routes.
type host struct {
	backend
	runtimeDir string
}

// onHosts runs the test on a host for each backend.
func onHosts(t *testing.T, test func(t *testing.T, h *host)) {
	onBackends(t, func(t *testing.T, b backend) {
		h := newHost(t, b)
		h.prepare(t)
		test(t, h)
	})
}

// newHost returns a host in the current network namespace.
func newHost(t testing.TB, b backend) *host { return &host{backend: b, runtimeDir: t.TempDir()} }

func (h *host) prepare(t *testing.T) {
	t.Helper()
	for _, link := range []string{"eth0", "eth1", "eth2"} {
		peer := "peer" + link[3:]
		run(t, "ip", "link add "+link+" type veth peer name "+peer)
		run(t, "ip", "link set "+link+" addrgenmode none")
		run(t, "ip", "link set "+peer+" addrgenmode none")
		run(t, "ip", "link set "+link+" up")
		run(t, "ip", "link set "+peer+" up")
	}
	for _, args := range []string{
		"addr add 10.10.0.2/24 dev eth0", "addr add 198.51.100.10/24 dev eth1", "addr add 203.0.113.10/24 dev eth2",
		"addr add 2001:db8:1::10/64 dev eth1 nodad", "addr add 2001:db8:2::10/64 dev eth2 nodad",
		"route add default via 198.51.100.1",
		"route add 192.0.2.0/24 via 198.51.100.7 table 7380",
		"rule add priority 7380 fwmark 0x4000/0x4000 lookup 99",
		"-6 rule add priority 7000 fwmark 0x100/0x1f00 lookup 99",
	} {
		run(t, "ip", args)
	}
	testenv.AwaitLocal(t, "2001:db8:1::10", "2001:db8:2::10")
	h.addForeign(t)
	h.write(t, "net/ipv4/ip_forward", "0")
	h.write(t, "net/ipv4/conf/all/rp_filter", "0")
	h.write(t, "net/ipv4/conf/eth1/rp_filter", "1")
	h.write(t, "net/ipv4/conf/eth2/rp_filter", "0")
}

func (h *host) write(t testing.TB, key, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// start returns a Dataplane as smartnatd has it after a start.
func (h *host) start() *dataplane.Dataplane { return h.options().dataplane() }

func (h *host) options() parts {
	return parts{
		own:       gateway.DefaultOwnership(),
		backend:   h.backend,
		Routes:    rtnetlink.New(gateway.DefaultOwnership()),
		Sysctls:   sysctl.New(h.runtimeDir),
		Conntrack: conntrack.New(gateway.DefaultOwnership()),
	}
}

func run(t testing.TB, program, args string) string {
	t.Helper()
	out, err := exec.Command(program, strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, args, err, out)
	}
	return string(out)
}

var volatile = regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`)

// dump returns all that the kernel holds, as an administrator sees it.
func (h *host) dump(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(h.backend.dump(t))
	for _, args := range []string{"rule", "-6 rule", "route show table all", "-6 route show table all"} {
		// Rules of the same priority are listed in the order of their creation. The order does not matter, because their marks
		// differ.
		b.WriteString(strings.Join(sortedLines(run(t, "ip", args)), "\n") + "\n")
	}
	for _, key := range []string{
		"net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth1/rp_filter", "net/ipv4/conf/eth2/rp_filter",
		"net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding", "net/ipv6/conf/eth1/forwarding",
		"net/ipv6/conf/default/accept_ra", "net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/eth1/accept_ra",
	} {
		value, err := os.ReadFile("/proc/sys/" + key)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(key + "=" + string(value))
	}
	return b.String()
}

func (h *host) cleanup(t *testing.T, d *dataplane.Dataplane, before string) {
	t.Helper()
	if _, err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, h.dump(t)); diff != "" {
		t.Errorf("after cleanup (-before +after):\n%s", diff)
	}
}

func TestKernelRestartWritesNothing(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		d := h.start()
		for _, start := range []struct {
			name  string
			empty bool
		}{{"first", false}, {"second", true}} { // for each family one reading, and the writes that are necessary
			programmed, writes := h.dump(t), h.plannedWrites(t, full())
			execs := h.execs()
			d = h.start()
			result := apply(t, d, full())
			if got := h.execs() - execs; result.Writes != writes || got != int64(2+writes) || writes > 4 || (writes == 0) != start.empty {
				t.Errorf("%s start: %d writes, %d executions, want %d, %d", start.name, result.Writes, got, writes, 2+writes)
			}
			if result.Empty() != start.empty {
				t.Errorf("%s start: %s", start.name, result)
			}
			if start.empty {
				if diff := cmp.Diff(programmed, h.dump(t)); diff != "" {
					t.Errorf("%s start (-before +after):\n%s", start.name, diff)
				}
			}
		}
		// A change takes the executions that are necessary for its family.
		state := full()
		state.Forwards[0].Backends = state.Forwards[0].Backends[:1]
		writes := h.plannedWrites(t, state)
		execs := h.execs()
		result := apply(t, d, state)
		if got := h.execs() - execs; got != int64(writes) || writes > 2 || result.Chains > 3 || result.Routes()+result.IPRules() > 0 {
			t.Errorf("an endpoint disappears: %d executions, %s", got, result)
		}
		// The boundary that a start writes first is there already.
		if guarded, err := h.start().Guard(t.Context(), gateway.State{Uplinks: full().Uplinks}); err != nil || !guarded.Empty() {
			t.Errorf("the boundary: %s, %v; want nothing written", guarded, err)
		}
		h.cleanup(t, d, before)
		h.cleanup(t, h.start(), before)
	})
}

// plannedWrites returns the number of transactions that bring the rules to a state.
func (h *host) plannedWrites(t *testing.T, state gateway.State) (writes int) {
	t.Helper()
	planner := h.options().ruleset(nil)
	for _, family := range planner.Families() {
		changes, err := planner.Plan(t.Context(), family, state)
		if err != nil {
			t.Fatal(err)
		}
		writes += changes.Writes
	}
	return writes
}

func TestKernelRepair(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		d := h.start()
		apply(t, d, full())
		programmed := h.dump(t)
		for _, harm := range []struct {
			program, args string
			missing       string
		}{
			{"ip", "rule del priority 7380 protocol 83 fwmark 0x10/0x10", "ip rule: ip rule add priority 7380 fwmark 0x10/0x10 lookup 254 suppress_prefixlength 0"},
			{"ip", "rule del priority 7381 protocol 83 fwmark 0x100/0x1f00", "ip rule: ip rule add priority 7381 fwmark 0x100/0x1f00"},
			{"ip", "route flush table 7381", "route: ip route add default via 203.0.113.1 dev eth2 table 7381"},
			{"ip", "-6 route flush table 7381", "route: ip -6 route add default via fe80::1 dev eth2 table 7381"},
			{"ip", "route del 10.96.0.0/16", "route: ip route add 10.96.0.0/16"},
			{"sysctl", "-w net.ipv4.ip_forward=0", "sysctl net/ipv4/ip_forward=1: it was 0"},
			{"sysctl", "-w net.ipv6.conf.all.forwarding=0", "sysctl net/ipv6/conf/all/forwarding=1: it was 0"},
		} {
			quiet(t, d, full())
			run(t, harm.program, harm.args)
			if harm.program == "ip" { // The kernel reports changes of routes and policy routing rules.
				expectChanged(t, d, false)
				d.HostChanged()
			} else {
				awaitChange(t, d)
			}
			result := apply(t, d, full())
			if said := fmt.Sprint(result.Repaired); !strings.Contains(said, harm.missing) {
				t.Errorf("%s %s: missing %q, want %q in it", harm.program, harm.args, said, harm.missing)
			}
			if diff := cmp.Diff(programmed, h.dump(t)); diff != "" {
				t.Errorf("%s %s: not repaired (-before +after):\n%s", harm.program, harm.args, diff)
			}
		}
		h.cleanup(t, d, before)
	})
}

// awaitChange waits until a Check reports a write by another process. It takes time, because tables are not read twice in a row: the
// longer a reading took, on a busy machine too, the longer they stay unread.
func awaitChange(t *testing.T, d *dataplane.Dataplane) {
	t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
		changed, err := d.Check()
		if err != nil {
			t.Fatal(err)
		}
		if changed {
			return
		}
	}
	t.Fatal("Check does not report the write of another process")
}

// TestKernelSets expects that ten thousand sources become a rule and a set, which is written in blocks and changed by single
// members.
func TestKernelSets(t *testing.T) {
	onIPTables(t, func(t *testing.T, h *host, _ *iptablesBackend) {
		before := h.dump(t)
		d := h.start()
		apply(t, d, full())
		for _, step := range []struct {
			name  string
			state gateway.State
			execs int64
			// sets and members are the numbers that are written.
			sets, members int
		}{
			{"ten thousand sources", limited(sources(10_000)), 1, 1, 10_000},
			{"one more", limited(sources(10_001)), 0, 1, 1},
			{"one less", limited(sources(10_001)[1:]), 0, 1, 1},
			{"others", limited(sources(20_000)[10_001:]), 0, 1, 19_999},
			{"none", full(), 1, 1, 0},
		} {
			execs := h.execs()
			result := apply(t, d, step.state)
			if n := h.execs() - execs; n != step.execs || result.Sets != step.sets || result.Members != step.members {
				t.Errorf("%s: %d executions, %d sets, %d members; want %d, %d, %d",
					step.name, n, result.Sets, result.Members, step.execs, step.sets, step.members)
			}
			if result := apply(t, h.start(), step.state); !result.Empty() {
				t.Errorf("%s: a restart changes %s", step.name, result)
			}
		}
		apply(t, d, limited(sources(10_000)))
		h.cleanup(t, d, before)
	})
}

// TestKernelLinkFlap expects that routes which a link loses come back with the link.
func TestKernelLinkFlap(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		d := h.start()
		apply(t, d, full())
		programmed := h.dump(t)
		run(t, "ip", "link set eth1 down")
		d.HostChanged()
		if _, err := d.Apply(t.Context(), full()); err == nil || !strings.Contains(err.Error(), "eth1") || strings.Contains(err.Error(), "eth2") {
			t.Errorf("err = %v, want an error about eth1 only", err)
		}
		run(t, "ip", "link set eth1 up")
		run(t, "ip", "addr replace 2001:db8:1::10/64 dev eth1 nodad")
		testenv.AwaitLocal(t, "2001:db8:1::10")
		run(t, "ip", "route replace default via 198.51.100.1")
		run(t, "ip", "route replace 192.0.2.0/24 via 198.51.100.7 table 7380")
		d.HostChanged()
		if result := apply(t, d, full()); result.Routes() != 4 || result.Writes > 0 {
			t.Errorf("the link came back: %s, want its 4 routes", result)
		}
		if diff := cmp.Diff(programmed, h.dump(t)); diff != "" {
			t.Errorf("after the flap (-before +after):\n%s", diff)
		}
		h.cleanup(t, d, before)
	})
}

func sortedLines(s string) []string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return lines
}

// TestKernelRandomWalk expects that the kernel depends on the last state and not on the path to it.
func TestKernelRandomWalk(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		before := h.dump(t)
		r := rand.New(rand.NewPCG(2, 7))
		d := h.start()
		var state gateway.State
		for range 12 {
			state = random(r)
			if r.IntN(3) == 0 {
				d = h.start()
			}
			apply(t, d, state)
		}
		// Compare the order of the rules in their chains, which the comparison below ignores.
		if result := apply(t, h.start(), state); !result.Empty() {
			t.Errorf("a restart after the walk changes %s", result)
		}
		walked := h.dump(t)
		h.cleanup(t, d, before)
		d = h.start()
		apply(t, d, state)
		// iptables-save lists chains in the order of their creation.
		if diff := cmp.Diff(sortedLines(walked), sortedLines(h.dump(t))); diff != "" {
			t.Errorf("(-walked +at once):\n%s", diff)
		}
		h.cleanup(t, d, before)
	})
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ipset

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var same = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// inKernel returns a Client in a new network namespace.
func inKernel(t testing.TB) *Client {
	t.Helper()
	testenv.NewNetNS(t)
	c, err := New(gateway.DefaultOwnership())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func run(t testing.TB, program, args string) string {
	t.Helper()
	testenv.RequireTool(t, program)
	out, err := exec.Command(program, strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// networks returns n networks of several lengths, sorted.
func networks(family gateway.Family, n int) []netip.Prefix {
	var ps []netip.Prefix
	for i := range n {
		address, bits := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24+i%9
		if family == gateway.IPv6 {
			address, bits = netip.AddrFrom16([16]byte{0xfd, 0, byte(i >> 16), byte(i >> 8), byte(i)}), 48+i%81
		}
		ps = append(ps, netip.PrefixFrom(address, bits))
	}
	slices.SortFunc(ps, netip.Prefix.Compare)
	return ps
}

func expect(t *testing.T, c *Client, want ...ruleset.Set) {
	t.Helper()
	got, err := c.Observe()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("our sets (-want +got):\n%.2000s", diff)
	}
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSetsFromBeginningToEnd(t *testing.T) {
	c := inKernel(t)
	run(t, "ipset", "create other hash:net")
	run(t, "ipset", "add other 192.0.2.0/24")
	expect(t, c)
	for _, family := range []gateway.Family{gateway.IPv4, gateway.IPv6} {
		set := ruleset.Set{Name: fmt.Sprintf("smartnat-echo%d", family), Family: family, Members: networks(family, 10_000)}
		must(t, c.Put(set))
		expect(t, c, set)
		if listed := run(t, "ipset", "list -t "+set.Name); !strings.Contains(listed, "Number of entries: 10000\n") {
			t.Errorf("ipset lists:\n%s", listed)
		}
		set.Members = networks(family, 300)
		must(t, c.Put(set)) // replaces all members
		expect(t, c, set)
		remove := set.Members[:10]
		add := slices.DeleteFunc(networks(family, 400), func(p netip.Prefix) bool { return slices.Contains(set.Members, p) })
		must(t, c.Change(set, add, remove))
		set.Members = slices.DeleteFunc(networks(family, 400), func(p netip.Prefix) bool { return slices.Contains(remove, p) })
		expect(t, c, set)
		must(t, c.Change(set, add, remove)) // repetition is not an error
		expect(t, c, set)
		must(t, c.Put(ruleset.Set{Name: set.Name, Family: family}))
		expect(t, c, ruleset.Set{Name: set.Name, Family: family})
		must(t, c.Destroy(set.Name))
		must(t, c.Destroy(set.Name))
		expect(t, c)
	}
	if listed := run(t, "ipset", "list other"); !strings.Contains(listed, "192.0.2.0/24") {
		t.Errorf("foreign set changed:\n%s", listed)
	}
}

// TestPutAfterAnInterruptedOne: leftovers of an interrupted Put do not block the next one.
func TestPutAfterAnInterruptedOne(t *testing.T) {
	c := inKernel(t)
	set := ruleset.Set{Name: "smartnat-echo", Family: gateway.IPv6, Members: networks(gateway.IPv6, 3)}
	must(t, c.create("smartnat-next", gateway.IPv4))
	must(t, c.create(set.Name, set.Family))
	must(t, c.Put(set))
	expect(t, c, set)
}

func TestSizes(t *testing.T) {
	c := inKernel(t)
	must(t, c.Put(ruleset.Set{Name: "smartnat-echo", Family: gateway.IPv4, Members: networks(gateway.IPv4, 20)}))
	for _, step := range []struct {
		args string
		want map[string]int
	}{
		{args: "create other hash:net", want: map[string]int{"smartnat-echo": 20}},
		{args: "add smartnat-echo 192.0.2.0/24", want: map[string]int{"smartnat-echo": 21}},
		{args: "del smartnat-echo 192.0.2.0/24", want: map[string]int{"smartnat-echo": 20}},
		{args: "create smartnat-more hash:net family inet6", want: map[string]int{"smartnat-echo": 20, "smartnat-more": 0}},
		{args: "rename smartnat-more smartnat-less", want: map[string]int{"smartnat-echo": 20, "smartnat-less": 0}},
		{args: "flush smartnat-echo", want: map[string]int{"smartnat-echo": 0, "smartnat-less": 0}},
		{args: "destroy smartnat-echo", want: map[string]int{"smartnat-less": 0}},
	} {
		run(t, "ipset", step.args)
		got, err := c.Sizes()
		must(t, err)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s: sizes (-want +got):\n%s", step.args, diff)
		}
	}
}

// TestDestroyWaitsForTheRules: a set with a rule stays, and a set whose rule was just removed can be destroyed.
func TestDestroyWaitsForTheRules(t *testing.T) {
	for _, backend := range []string{"legacy", "nft"} {
		t.Run(backend, func(t *testing.T) {
			c := inKernel(t)
			program := "iptables-" + backend
			must(t, c.Put(ruleset.Set{Name: "smartnat-echo", Family: gateway.IPv4, Members: networks(gateway.IPv4, 1)}))
			for range 20 {
				run(t, program, "-A INPUT -m set --match-set smartnat-echo src -j DROP")
				run(t, program, "-D INPUT 1")
				must(t, c.Destroy("smartnat-echo"))
				must(t, c.create("smartnat-echo", gateway.IPv4))
			}
			run(t, program, "-A INPUT -m set --match-set smartnat-echo src -j DROP")
			begun := time.Now()
			if err := c.Destroy("smartnat-echo"); err == nil || time.Since(begun) < releaseTimeout {
				t.Errorf("Destroy of a referenced set: err = %v, want an error after %v", err, releaseTimeout)
			}
			expect(t, c, ruleset.Set{Name: "smartnat-echo", Family: gateway.IPv4})
		})
	}
}

func BenchmarkSets(b *testing.B) {
	c := inKernel(b)
	set := ruleset.Set{Name: "smartnat-echo", Family: gateway.IPv4, Members: networks(gateway.IPv4, 10_000)}
	for name, do := range map[string]func() error{
		"put":     func() error { return c.Put(set) },
		"change":  func() error { return c.Change(set, set.Members[:1], set.Members[1:2]) },
		"observe": func() error { _, err := c.Observe(); return err },
		"sizes":   func() error { _, err := c.Sizes(); return err },
	} {
		if err := c.Put(set); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var own = gateway.DefaultOwnership()

// variantOf returns the variant of the programs with a suffix, as in iptables-nft.
func variantOf(suffix string) string {
	return map[string]string{"legacy": Legacy, "nft": NFTables}[suffix]
}

// inKernel runs the test in a new network namespace for each variant and family.
func inKernel(t *testing.T, test func(t *testing.T, k kernel)) {
	for _, backend := range []string{"legacy", "nft"} {
		for _, family := range []gateway.Family{gateway.IPv4, gateway.IPv6} {
			t.Run(fmt.Sprintf("%s/IPv%d", backend, family), func(t *testing.T) {
				testenv.RequireTool(t, "iptables-"+backend)
				testenv.NewNetNS(t)
				runner, err := New(Options{Variant: variantOf(backend), LockTimeout: 5 * time.Second, IPv6: true})
				if err != nil {
					t.Fatal(err)
				}
				test(t, kernel{Runner: runner, family: family})
			})
		}
	}
}

type kernel struct {
	*Runner
	family gateway.Family
}

// apply reads, diffs and writes as the data plane does, and fails unless a second diff is empty.
func (k kernel) apply(t *testing.T, want ruleset.Ruleset) ruleset.Batch {
	t.Helper()
	have := k.read(t)
	batch := ruleset.Diff(have, want, own.ChainPrefix)
	if err := k.Restore(t.Context(), batch); err != nil {
		t.Fatalf("%v\n%s", err, batch.Text())
	}
	after := k.read(t)
	if again := ruleset.Diff(after, want, own.ChainPrefix); !again.Empty() {
		t.Fatalf("not a fixpoint, remaining changes:\n%s\nin\n%s", again.Text(), k.dump(t))
	}
	if diff := cmp.Diff(chains(ruleset.Apply(have, batch)), chains(after)); diff != "" {
		t.Fatalf("rules in the kernel (-predicted +kernel):\n%s", diff)
	}
	return batch
}

// chains returns the rules of all chains except empty built-in ones, which come with their table.
func chains(rs ruleset.Ruleset) map[string][]string {
	all := map[string][]string{}
	for _, t := range rs.Tables {
		for _, c := range t.Chains {
			name := t.Name + " " + c.Name
			for _, r := range c.Rules {
				all[name] = append(all[name], r.String())
			}
			if c.Policy == "" && len(c.Rules) == 0 {
				all[name] = nil
			}
		}
	}
	return all
}

func (k kernel) read(t testing.TB) ruleset.Ruleset {
	t.Helper()
	rs, err := k.Save(t.Context(), k.family)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

var volatile = regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]| --mask (255\.255\.255\.255|ffff(:ffff){7})`)

// dump returns the output of the variant's own program without dates, counters and redundant masks.
func (k kernel) dump(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), k.programs[k.family].save()).Output()
	if err != nil {
		t.Fatal(err)
	}
	return volatile.ReplaceAllString(string(out), "")
}

func (k kernel) load(t *testing.T, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), k.programs[k.family].restore(), "--noflush")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// crowded is the index of an address with many ports, heavy that of its Forward with many backends, and choosy that of the
// address with the Forwards of choices.
const (
	crowded = 5
	heavy   = 4*crowded + 30
	choosy  = 12
)

// address returns the n-th test address.
func address(family gateway.Family, n int) netip.Addr {
	if family == gateway.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n))
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
}

// state returns a State that exercises every kind of rule. It is small enough for one iptables-nft message of an unprivileged
// user (net.core.wmem_max).
func (k kernel) state() gateway.State {
	address := func(n int) netip.Addr { return address(k.family, n) }
	source := netip.PrefixFrom(address(0), address(0).BitLen()-8)
	backends := func(n int, port uint16) (list []gateway.Backend) {
		for i := range n {
			list = append(list, gateway.Backend{Address: address(100 + i), Port: port})
		}
		return list
	}
	state := gateway.State{Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1}, {Link: "eth2", Number: 2}}}
	for a := range 12 {
		f := gateway.Forward{Frontend: gateway.Frontend{Address: address(a + 1), Protocol: gateway.TCP}, Owner: "default/echo"}
		add := func() {
			one := f
			state.Forwards = append(state.Forwards, &one)
		}
		first := 28
		if a == crowded {
			first = 0
		}
		for i := first; i < 30; i++ {
			f.Ports = gateway.Port(uint16(80 + 3*i))
			f.Backends = backends(i%7, 8000)
			f.Masquerade = i%5 != 0
			f.Sources, f.SourcesDeny = nil, i == 17
			if i%4 > 1 {
				f.Sources = []netip.Prefix{source}
			}
			add()
		}
		f.Ports, f.Backends = gateway.PortRange{First: 20000, Last: 40000}, backends(3, 20000)
		f.Shift, f.Masquerade = true, true
		add()
		f.Protocol, f.Ports, f.Backends = gateway.UDP, gateway.PortRange{First: 8000, Last: 8009}, backends(3, 9000)
		add()
	}
	// A Forward with many backends, after the last single port of its address.
	f := *state.Forwards[heavy-1]
	f.Ports, f.Backends, f.Masquerade = gateway.Port(1000), backends(70, 8000), false
	state.Forwards = slices.Insert(state.Forwards, heavy, &f)
	state.Forwards = append(state.Forwards, k.choices(address(1+choosy), backends)...)
	for n := range 2 {
		e := gateway.Egress{Address: address(1 + n), Uplink: 1 + n, Owner: "default/echo"}
		for i := range 9 {
			e.Sources = append(e.Sources, address(100+2*i+n))
		}
		state.Egresses = append(state.Egresses, e)
	}
	state.ClampMSS = true
	state.MasqueradePorts = gateway.PortRange{First: 1024, Last: 65535}
	return state
}

// choices returns Forwards with SCTP and with session affinity, in State order.
func (k kernel) choices(address netip.Addr, backends func(int, uint16) []gateway.Backend) []*gateway.Forward {
	forward := func(protocol gateway.Protocol, first, last uint16, b []gateway.Backend) *gateway.Forward {
		f := &gateway.Forward{Frontend: gateway.Frontend{Address: address, Protocol: protocol, Ports: gateway.PortRange{First: first, Last: last}},
			Owner: "default/choices", Service: fmt.Sprintf("default/%s-%d", protocol, first), Masquerade: true, Backends: b, Affinity: 3 * time.Hour}
		if last > first {
			f.Shift = true
		}
		return f
	}
	return []*gateway.Forward{
		forward(gateway.SCTP, 80, 80, backends(1, 8000)),
		forward(gateway.SCTP, 100, 199, backends(2, 300)),
		forward(gateway.TCP, 80, 80, backends(3, 8000)),
		forward(gateway.UDP, 53, 53, backends(40, 5353)),
		forward(gateway.UDP, 5000, 5009, backends(2, 6000)),
		forward(gateway.UDP, 7000, 7009, backends(2, 7000)),
	}
}

func (k kernel) build(state gateway.State) ruleset.Ruleset {
	return rules.Build(state, k.family, rules.Options{Ownership: own, RandomFully: k.RandomFully()})
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		k.apply(t, k.build(gateway.State{}))
		state := k.state()
		before := k.Execs()
		if batch := k.apply(t, k.build(state)); batch.Chains() < 30 {
			t.Fatalf("only %d chains written", batch.Chains())
		}
		if n := k.Execs() - before; n != 3 {
			t.Errorf("%d programs run, want 3: save, restore, save", n)
		}
		rendered := ruleset.Render(k.build(state))
		if missing := missingLines(string(rendered), k.dump(t)); missing != "" {
			t.Errorf("the program prints these rules differently:\n%s", missing)
		}
		if batch := k.apply(t, k.build(state)); !batch.Empty() {
			t.Errorf("a second apply writes again:\n%s", batch.Text())
		}

		less := *state.Forwards[heavy]
		less.Backends = less.Backends[1:]
		state.Forwards[heavy] = &less
		if batch := k.apply(t, k.build(state)); batch.Chains() == 0 || batch.Chains() > 3 {
			t.Errorf("%d chains written for one endpoint, want 1 to 3:\n%s", batch.Chains(), batch.Text())
		}
		state.Forwards = state.Forwards[heavy:]
		k.apply(t, k.build(state))
		state.Uplinks = state.Uplinks[1:]
		k.apply(t, k.build(state))
		k.apply(t, k.build(gateway.State{}))
	})
}

func missingLines(want, have string) string {
	var missing strings.Builder
	for line := range strings.Lines(want) {
		if strings.HasPrefix(line, "-A ") && !strings.Contains(have, line) {
			missing.WriteString(line)
		}
	}
	return missing.String()
}

// foreign is an example of rules that other programs have on the host.
const foreign = `*mangle
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:it-has.odd/names - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "ssh, \"the\" door -j SMARTNAT-FORWARD" -j ACCEPT
-A INPUT -m limit --limit 5/min -j LOG --log-prefix "in: " --log-level 7
-A FORWARD -j DOCKER-USER
-A FORWARD ! -i lo -m conntrack ! --ctstate INVALID -j it-has.odd/names
-A DOCKER-USER -j RETURN
COMMIT
*nat
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m addrtype --dst-type LOCAL -j KUBE-SERVICES
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.33333333349 -j RETURN
COMMIT
*raw
-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack
COMMIT
`

func TestOnlyOursIsTouched(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		k.load(t, foreign)
		before := k.dump(t)
		want := k.build(k.state())
		k.apply(t, want)
		if missing := missingLines(foreign, k.dump(t)); missing != "" {
			t.Errorf("rules of other programs are gone:\n%s", missing)
		}
		if !strings.Contains(k.dump(t), ":FORWARD DROP") {
			t.Error("a policy was changed")
		}

		k.load(t, "*filter\n-I FORWARD -i eth7 -j ACCEPT\n-A FORWARD -j SMARTNAT-FORWARD\nCOMMIT\n*nat\n-A SMARTNAT-SERVICES -j ACCEPT\nCOMMIT\n")
		if batch := k.apply(t, want); batch.Chains() != 1 || batch.Rules() < 3 {
			t.Errorf("want the jump moved to the top, its duplicate removed, and one chain written:\n%s", batch.Text())
		}
		if !strings.Contains(k.dump(t), "-A FORWARD -j SMARTNAT-FORWARD\n-A FORWARD -i eth7 -j ACCEPT\n-A FORWARD -j DOCKER-USER\n") {
			t.Errorf("our jump is not first:\n%s", k.dump(t))
		}

		k.load(t, "*filter\n-D FORWARD -i eth7 -j ACCEPT\nCOMMIT\n")
		k.apply(t, ruleset.Ruleset{Family: k.family})
		if diff := cmp.Diff(before, k.dump(t)); diff != "" {
			t.Errorf("not restored after the removal (-before +after):\n%s", diff)
		}
	})
}

func TestChainThatOthersLeadToIsEmptied(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		k.apply(t, k.build(k.state()))
		k.load(t, "*filter\n:OTHER - [0:0]\n-A OTHER -m limit --limit 1/sec -j SMARTNAT-REFUSE\nCOMMIT\n")
		k.apply(t, ruleset.Ruleset{Family: k.family})
		if got := k.dump(t); strings.Count(got, "SMARTNAT") != 2 {
			t.Errorf("want only the empty chain and the rule that jumps to it:\n%s", got)
		}
	})
}

func TestRefusedLineIsNamed(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		bad := ruleset.Rule{Foreign: "-m no-such-match -j ACCEPT"}
		batch := ruleset.Batch{Family: k.family, Tables: []ruleset.TableBatch{
			{Name: "filter", Write: []ruleset.Chain{{Name: "SMARTNAT-X", Rules: []ruleset.Rule{bad}}}},
		}}
		err := k.Restore(t.Context(), batch)
		var line *LineError
		if !errors.As(err, &line) || line.Line != 3 || line.Text != "-A SMARTNAT-X "+bad.Foreign {
			t.Errorf("error %v, want a LineError for line 3", err)
		}
	})
}

func TestRuleThatIsGoneCannotBeRemoved(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		batch := ruleset.Batch{Family: k.family, Tables: []ruleset.TableBatch{{Name: "filter", Remove: []ruleset.ChainRule{
			{Chain: "FORWARD", Rule: ruleset.Rule{Target: ruleset.Target{Verb: ruleset.Accept}}},
		}}}}
		var line *LineError
		if err := k.Restore(t.Context(), batch); !errors.As(err, &line) || line.Line != 2 {
			t.Errorf("error %v, want a LineError for line 2", err)
		}
	})
}

func TestRulesOfTheOtherVariant(t *testing.T) {
	for _, tc := range []struct{ ours, other, want string }{
		{"legacy", "nft", "iptables-nft-save shows 1 rules in filter"},
		{"nft", "legacy", "iptables-legacy-save shows 1 rules in filter"},
	} {
		t.Run(tc.ours, func(t *testing.T) {
			testenv.RequireTool(t, "iptables-"+tc.other)
			testenv.NewNetNS(t)
			runner, err := New(Options{Variant: variantOf(tc.ours), IPv6: true})
			if err != nil {
				t.Fatal(err)
			}
			k := kernel{Runner: runner, family: gateway.IPv4}
			k.apply(t, k.build(gateway.State{}))
			if got, err := runner.OtherVariantRules(t.Context()); got != "" || err != nil {
				t.Errorf("%q, %v; want nothing", got, err)
			}
			if out, err := exec.Command("iptables-"+tc.other, "-A", "INPUT", "-j", "ACCEPT").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got, err := runner.OtherVariantRules(t.Context()); got != tc.want || err != nil {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
			if text := k.dump(t); strings.Contains(text, "-A INPUT -j ACCEPT") || bytes.Contains([]byte(text), []byte("legacy")) {
				t.Errorf("this variant lists the rule of the other one:\n%s", text)
			}
			k.apply(t, k.build(k.state()))
		})
	}
}

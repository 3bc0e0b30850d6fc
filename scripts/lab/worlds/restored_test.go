// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestSavedRulesAreRestored saves all rules as iptables-persistent does (or `iptables-save` by hand) while an old Mapping exists, and
// restores them after it is deleted: at boot before smartnatd, and while it runs. The old Mapping must not be exposed, not even to
// flows that the restored rules let in, and the new one must work, with the same rules as on a gateway without a restore.
func TestSavedRulesAreRestored(t *testing.T) {
	// Enough sources for an ipset, which the saved rules then name.
	var many []string
	for i := range 70 {
		many = append(many, fmt.Sprintf("198.18.%d.0/24", i), fmt.Sprintf(`"2001:db8:f:%x::/64"`, i))
	}
	oldOnes := `addresses: [198.51.100.10, "2001:db8:1::10"], ports: [{port: 9090}, {port: 9090, protocol: udp}], allowedSources: [192.0.2.0/24, "2001:db8:c::/64", ` +
		strings.Join(many, ", ") + "]"
	newOnes := `addresses: [203.0.113.10, "2001:db8:2::10"], ports: [{port: 8080}, {port: 8080, protocol: udp}]`
	var gone, wanted []string
	for _, address := range []string{lab.External1, lab.External1v6} {
		gone = append(gone, lab.Join(address, 9090))
	}
	for _, address := range []string{lab.External2, lab.External2v6} {
		wanted = append(wanted, lab.Join(address, 8080))
	}
	const forwarding = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 8080, 9090)
		echo := service(t, "echo", []string{"8080/TCP", "8080/UDP", "9090/TCP", "9090/UDP"}, p1)
		w.objects(t, echo, mapping("old", "echo", oldOnes))
		// The host itself enables forwarding, as at the boot below: the boundary differs if smartnatd enables it.
		w.gateway(t, forwarding)
		w.start(t, twoUplinks)
		w.awaitBoth(t, gone, by(p1, 9090))
		saved := map[string]string{"ipset": w.gateway(t, "ipset save")}
		for _, program := range []string{"iptables", "ip6tables"} {
			saved[program] = w.gateway(t, program+"-save")
		}

		w.objects(t, echo, mapping("new", "echo", newOnes))
		w.awaitBoth(t, wanted, by(p1, 8080))
		w.awaitGone(t, gone)
		w.awaitNoSets(t) // Sets are removed last: the rules are final then.
		clean, err := w.rules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		check := func(t *testing.T) {
			t.Helper()
			w.awaitRules(t, clean)
			w.awaitGone(t, gone)
			w.awaitBoth(t, wanted, by(p1, 8080))
		}
		for _, how := range []struct{ name, options string }{
			{"instead of all rules, while smartnatd runs", ""},
			{"added to all rules, while smartnatd runs", " --noflush"},
			{"with counters, while smartnatd runs", " --counters"},
		} {
			t.Run(how.name, func(t *testing.T) {
				w.restore(t, saved, how.options)
				check(t)
			})
		}
		t.Run("at boot, before smartnatd", func(t *testing.T) {
			if err := w.RenewGateway(timeout(t, patience)); err != nil {
				t.Fatal(err)
			}
			w.defaultRoutes(t)
			w.restore(t, saved, "")
			// With forwarding enabled, the old Mapping works again until smartnatd starts.
			w.gateway(t, forwarding)
			var flows []*lab.Flow
			for _, address := range gone {
				for _, network := range []string{"tcp", "udp"} {
					w.await(t, lab.Client, network, address, by(p1, 9090))
					flows = append(flows, w.open(t, lab.Client, network, address, 0))
					awaitEcho(t, flows[len(flows)-1], by(p1, 9090))
				}
			}
			w.objects(t, echo, mapping("new", "echo", newOnes))
			w.start(t, twoUplinks)
			check(t)
			for _, flow := range flows {
				w.awaitEnd(t, flow)
			}
			w.awaitNoSets(t)
		})
	})
}

// TestRulesOfTheOtherVariant has a host that switches its iptables programs (update-alternatives, an upgrade of the distribution), or that
// restores a save with the other variant: packets meet the rules of both, which must not include those of an old Mapping.
func TestRulesOfTheOtherVariant(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		variant, other := "legacy", "nf_tables"
		if strings.Contains(w.gateway(t, "iptables --version"), "nf_tables") {
			variant, other = other, variant
		}
		suffix := strings.Replace(other, "nf_tables", "nft", 1) // of the other variant's programs
		w.pods(t, 8080, 9090)
		echo := service(t, "echo", []string{"8080/TCP", "8080/UDP", "9090/TCP", "9090/UDP"}, p1)
		gone, wanted := []string{lab.Join(lab.External1, 9090), lab.Join(lab.External1v6, 9090)}, []string{lab.Join(lab.External2, 8080), lab.Join(lab.External2v6, 8080)}
		w.objects(t, echo, mapping("old", "echo", `addresses: [198.51.100.10, "2001:db8:1::10"], ports: [{port: 9090}, {port: 9090, protocol: udp}]`))
		w.start(t, twoUplinks+"iptables: {variant: "+other+"}\n")
		w.awaitBoth(t, gone, by(p1, 9090))
		w.stop(t)
		for _, program := range []string{"iptables-", "ip6tables-"} { // rules of the user
			w.gateway(t, program+suffix+" -A INPUT -p tcp --dport 7 -j ACCEPT")
		}
		w.objects(t, echo, mapping("new", "echo", `addresses: [203.0.113.10, "2001:db8:2::10"], ports: [{port: 8080}, {port: 8080, protocol: udp}]`))
		config := twoUplinks + "iptables: {variant: " + variant + "}\n"
		w.start(t, config)
		w.awaitBoth(t, wanted, by(p1, 8080))
		w.awaitGone(t, gone)
		for _, program := range []string{"iptables-", "ip6tables-"} {
			rules := w.gateway(t, program+suffix+"-save")
			if strings.Contains(rules, "SMARTNAT-") || !strings.Contains(rules, "--dport 7 ") {
				t.Errorf("the other variant holds:\n%s", rules)
			}
		}
		t.Run("cleanup", func(t *testing.T) {
			w.stop(t)
			w.start(t, twoUplinks+"iptables: {variant: "+other+"}\n")
			w.stop(t)
			if err := w.Host(lab.Gateway).WriteFile("/etc/smartnat.yaml", source+config); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Smartnatd(timeout(t, patience), "cleanup"); err != nil {
				t.Fatal(err)
			}
			for _, program := range []string{"iptables-legacy-save", "iptables-nft-save", "ip6tables-legacy-save", "ip6tables-nft-save"} {
				if rules := w.gateway(t, program); strings.Contains(rules, "SMARTNAT-") {
					t.Errorf("%s:\n%s", program, rules)
				}
			}
		})
	})
}

// restore loads saved sets and rules. A running smartnatd removes the sets that no rule of its own needs, at times before the rules that
// name them are restored: a restore that is refused for that is repeated, sets first.
func (w *world) restore(t *testing.T, saved map[string]string, options string) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		argv := strings.Fields(program + "-restore" + options)
		if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
			if _, err := w.Host(lab.Gateway).ExecInput(ctx, saved["ipset"], "ipset", "restore", "-exist"); err != nil {
				return err
			}
			_, err := w.Host(lab.Gateway).ExecInput(ctx, saved[program], argv...)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// rules returns the rules of both families, without counters and comments, sorted since the order of chains has no meaning. It fails if a
// set is removed meanwhile.
func (w *world) rules(ctx context.Context) ([]string, error) {
	var all []string
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		output, err := w.Host(lab.Gateway).Exec(ctx, program)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(output) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if strings.HasPrefix(line, ":") {
				line, _, _ = strings.Cut(line, " [")
			}
			all = append(all, program+" "+strings.TrimSpace(line))
		}
	}
	slices.Sort(all)
	return all, nil
}

func (w *world) awaitRules(t *testing.T, want []string) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		got, err := w.rules(ctx)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("rules (-want +got):\n%s", diff)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func (w *world) awaitNoSets(t *testing.T) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		if sets, err := w.Host(lab.Gateway).Exec(ctx, "ipset", "list", "-n"); err != nil || sets != "" {
			return errors.Join(err, fmt.Errorf("sets are left: %s", sets))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// awaitBoth connects by TCP and UDP until the addresses answer.
func (w *world) awaitBoth(t *testing.T, addresses []string, accept func(lab.Answer) bool) {
	t.Helper()
	for _, address := range addresses {
		for _, network := range []string{"tcp", "udp"} {
			w.await(t, lab.Client, network, address, accept)
		}
	}
}

// awaitGone connects by TCP and UDP until the gateway itself refuses, as it does without a Mapping.
func (w *world) awaitGone(t *testing.T, addresses []string) {
	t.Helper()
	for _, address := range addresses {
		for _, network := range []string{"tcp", "udp"} {
			if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
				answer, err := w.ask(ctx, lab.Client, network, address)
				if !errors.Is(err, unix.ECONNREFUSED) {
					return errors.Join(err, fmt.Errorf("answer %+v, want a refusal", answer))
				}
				return nil
			}); err != nil {
				t.Errorf("%s/%s: %v", address, network, err)
			}
		}
	}
}

// awaitEnd exchanges messages on a flow until that fails.
func (w *world) awaitEnd(t *testing.T, flow *lab.Flow) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, try)
		defer cancel()
		if answer, err := flow.Echo(ctx); err == nil {
			return fmt.Errorf("answer %+v", answer)
		}
		return nil
	}); err != nil {
		t.Errorf("the flow to %s by %s does not end: %v", flow.Conn.RemoteAddr(), flow.Conn.RemoteAddr().Network(), err)
	}
}

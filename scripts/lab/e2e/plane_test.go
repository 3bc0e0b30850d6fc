// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// plane is a data plane of the gateway: all that tests need to know about it.
type plane interface {
	// variant is that of the gateway's iptables.
	variant() string
	// config is the line of the config that chooses the data plane, and env is added to smartnatd's environment.
	config() string
	env() []string
	// rules returns all packet rules, as text that is equal for equal behaviour.
	rules(ctx context.Context, gateway *lab.Host) (string, error)
	// list is a command that prints the rules of a family that are, with iptables, in this table.
	list(table string, ipv6 bool) string
	// to, on and clamp are what rules contain that lead to an IPv4 address, that apply to an uplink, and that clamp segments.
	to(address string) string
	on(link string) string
	clamp() string
	// dropped returns the number of packets that the boundary dropped.
	dropped(ctx context.Context, gateway *lab.Host, ipv6 bool) (int, error)
	// holds reports whether smartnatd keeps connections alive by a table of their own.
	holds() bool
	// writes starts to count the writes of rules.
	writes(ctx context.Context, t *testing.T, w *world) (count func() int)
	// writesPerChange is the maximum for one endpoint.
	writesPerChange() int
	// hands are modifications of our rules by other programs.
	hands() []hand
	// manners are the ways to kill smartnatd in a write, and prepareCrashes prepares them.
	manners() []manner
	prepareCrashes(ctx context.Context, t *testing.T, w *world)
}

// iptables is the data plane of that name with one variant.
type iptables string

const (
	legacy   iptables = "legacy"
	nfTables iptables = "nf_tables"
)

func (v iptables) variant() string     { return string(v) }
func (iptables) config() string        { return "" } // the default
func (iptables) env() []string         { return nil }
func (iptables) to(a string) string    { return "--to-destination " + a + ":" }
func (iptables) on(link string) string { return "-i " + link + " " }
func (iptables) clamp() string         { return "--clamp-mss-to-pmtu" }
func (iptables) holds() bool           { return true }
func (iptables) writesPerChange() int  { return 1 }

// iptablesRules prints sets without the parameters that change each time they are created, and rules without counters.
const iptablesRules = `
ipset save | sed 's/ hash:.*//' | sort
for program in iptables-save ip6tables-save; do
	# A table that was never asked for does not exist yet.
	for table in mangle filter nat; do $program -t $table; done
done | sed -e '/^#/d' -e 's/\[[0-9:]*\]//'`

// rules implements plane. It sorts chains, whose order is that of their creation, and keeps the order of a chain's rules.
func (iptables) rules(ctx context.Context, gateway *lab.Host) (string, error) {
	out, err := gateway.Exec(ctx, "sh", "-ec", iptablesRules)
	if err != nil {
		return "", err
	}
	var other, chains []string
	rules := map[string]string{}
	table := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "*") {
			table++
		}
		switch {
		case strings.HasPrefix(line, ":"):
			chains = append(chains, fmt.Sprintf("%d %s", table, line))
		case strings.HasPrefix(line, "-A "):
			rules[fmt.Sprintf("%d %s", table, strings.Fields(line)[1])] += line
		default:
			other = append(other, line)
		}
	}
	slices.Sort(chains)
	for _, chain := range slices.Sorted(maps.Keys(rules)) {
		chains = append(chains, rules[chain])
	}
	return strings.Join(other, "") + strings.Join(chains, ""), nil
}

func (iptables) dropped(ctx context.Context, gateway *lab.Host, ipv6 bool) (int, error) {
	out, err := gateway.Exec(ctx, append(strings.Fields(iptables("").list("filter", ipv6)), "-c")...)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "-A SMARTNAT-BOUNDARY -j DROP") {
			return packets(line, "[%d:")
		}
	}
	return 0, fmt.Errorf("no rule drops at the boundary:\n%s", out)
}

func (iptables) list(table string, ipv6 bool) string {
	if ipv6 {
		return "ip6tables-save -t " + table
	}
	return "iptables-save -t " + table
}

// packets reads a counter.
func packets(line, format string) (n int, err error) {
	if _, err := fmt.Sscanf(strings.TrimSpace(line), format, &n); err != nil {
		return 0, fmt.Errorf("the counter of %q: %w", line, err)
	}
	return n, nil
}

// writes implements plane. Each run of a restore program is one.
func (iptables) writes(_ context.Context, t *testing.T, w *world) func() int {
	before := w.restores(t)
	return func() int { return w.restores(t) - before }
}

// native is the data plane nftables. smartnatd finds no program of iptables, ipset or nftables.
type native struct{}

func (native) variant() string       { return "nf_tables" }
func (native) config() string        { return "dataplane: nftables\n" }
func (native) env() []string         { return []string{"PATH=/run/no-programs"} }
func (native) to(a string) string    { return ": " + a + " . " }
func (native) on(link string) string { return `"` + link + `"` }
func (native) clamp() string         { return "maxseg size set" }
func (native) holds() bool           { return false }

// writesPerChange implements plane: to add what is new, to lead to it, and to remove what is old.
func (native) writesPerChange() int { return 3 }

func (native) rules(ctx context.Context, gateway *lab.Host) (string, error) {
	return gateway.NFTables(ctx, "smartnat")
}

func (native) dropped(ctx context.Context, gateway *lab.Host, ipv6 bool) (int, error) {
	out, err := gateway.Exec(ctx, strings.Fields(native{}.list("filter", ipv6))...)
	if err != nil {
		return 0, err
	}
	boundary := false
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "\tchain "):
			boundary = line == "\tchain boundary {\n"
		case boundary && strings.HasSuffix(line, " drop\n"):
			return packets(line, "counter packets %d")
		}
	}
	return 0, fmt.Errorf("no rule drops at the boundary:\n%s", out)
}

func (native) list(table string, ipv6 bool) string {
	family := "ip"
	if ipv6 {
		family = "ip6"
	}
	if table == "nat" {
		return "nft list map " + family + " smartnat frontends"
	}
	return "nft list table " + family + " smartnat"
}

// writes implements plane. Each transaction of smartnatd that changes more than the owner of a table is one.
func (native) writes(ctx context.Context, t *testing.T, w *world) func() int {
	t.Helper()
	count, monitor, err := w.Host(lab.Gateway).CountTransactions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = monitor.Kill() })
	return count
}

// testNoPrograms checks that smartnatd did all that without a program of netfilter, and that its rules need no module of iptables.
func testNoPrograms(t *testing.T, w *world) {
	// nft(8) prints such rules as text of iptables, or not at all.
	var rules []netlink.Message
	if err := w.Host(lab.Gateway).Do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		rules, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
			Data:   make([]byte, 4), // struct nfgenmsg, of all families
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"payload": true, "lookup": true, "nat": true, "match": false, "target": false} {
		attribute := append([]byte{byte(4 + len(name) + 1), 0, unix.NFTA_EXPR_NAME, 0}, name+"\x00"...)
		found := slices.ContainsFunc(rules, func(m netlink.Message) bool { return bytes.Contains(m.Data, attribute) })
		if found != want {
			t.Errorf("%d rules, some with the expression %s: %t, want %t", len(rules), name, found, want)
		}
	}
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save", "ipset save"} {
		if out := w.gateway(t, program); strings.Contains(strings.ToLower(out), "smartnat") {
			t.Errorf("%s shows rules with nftables:\n%s", program, out)
		}
	}
	environment := w.gateway(t, fmt.Sprintf("cat /proc/%d/environ", w.daemon.PID()))
	for _, want := range w.plane.env() {
		if !strings.Contains("\x00"+environment, "\x00"+want+"\x00") {
			t.Errorf("smartnatd does not run with %s", want)
		}
	}
}

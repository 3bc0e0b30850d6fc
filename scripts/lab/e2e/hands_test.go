// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/smartnat/smartnat/scripts/lab"
)

// repaired bounds the time of a repair. A repair takes a fraction of a second; the rest allows for a busy machine, where a reading of
// the tables keeps them unread for twenty times as long as it took.
const repaired = time.Minute

// hand is an external modification of SmartNat's state on the gateway: the script, the kind of repair that the log names or "" if
// nothing changes, and a script that undoes the rest.
type hand struct{ name, script, kind, after string }

// anyHands are the modifications that connections survive with any data plane. Removed addresses and links have their own tests.
var anyHands = []hand{
	{
		name:   "ip rule flush",
		script: "for f in -4 -6; do ip $f rule flush; ip $f rule add pref 32766 lookup main protocol kernel; done; ip rule add pref 32767 lookup default protocol kernel",
		kind:   "ip_rule",
	},
	{name: "ip route flush table", script: "for f in -4 -6; do for t in 7380 7381; do ip $f route flush table $t; done; done", kind: "route"},
	{name: "a gateway changed", script: "ip route replace default via 203.0.113.99 dev eth2 table 7381 proto 83", kind: "route"},
	{name: "forwarding turned off", script: "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding", kind: "sysctl"},
	{name: "forwarding turned off on an uplink", script: "echo 0 > /proc/sys/net/ipv4/conf/eth2/forwarding", kind: "sysctl"},
	{name: "a strict reverse path filter", script: "echo 1 > /proc/sys/net/ipv4/conf/eth2/rp_filter", kind: "sysctl"},
}

// flushTables flushes all tables and deletes their user-defined chains. iptables deletes chain by chain and fails if a repair that is
// under way has removed or filled one meanwhile, so it tries again.
const flushTables = `for t in mangle filter nat; do for p in iptables ip6tables; do
	tries=0
	until $p -w 5 -t $t -F && $p -w 5 -t $t -X; do tries=$((tries+1)); [ $tries -lt 20 ] || exit 1; done
done; done`

func (v iptables) hands() []hand {
	all := []hand{
		{name: "iptables -F", script: "iptables -F; iptables -t nat -F; ip6tables -t mangle -F", kind: "iptables"},
		// On nf_tables these would remove the translation itself from the kernel, if smartnatd did not hold it.
		{name: "iptables -F and -X of everything", script: flushTables, kind: "iptables"},
		{name: "ipset flush", script: "ipset flush", kind: "ipset"}, // destroying a set needs its rules removed first
		{name: "another's rule above ours", script: "iptables -I FORWARD -i eth9 -j ACCEPT", kind: "iptables", after: "iptables -D FORWARD -i eth9 -j ACCEPT"},
	}
	if v == nfTables {
		all = append(all, hand{name: "nft flush ruleset", script: "nft flush ruleset", kind: "iptables"})
	}
	return all
}

// hands implements plane. No other process can change tables that smartnatd owns (Linux 6.9).
func (native) hands() []hand {
	return []hand{
		{name: "nft flush ruleset", script: "nft flush ruleset"},
		{name: "iptables -F and -X of everything", script: flushTables},
		{name: "nft delete table", script: "! nft delete table ip smartnat && ! nft delete table ip6 smartnat"},
		{name: "nft flush chain", script: "! nft flush chain ip smartnat prerouting-nat"},
		{name: "nft insert rule", script: "! nft insert rule ip6 smartnat forward drop"},
		{name: "nft delete element", script: "! nft flush map ip smartnat frontends"},
	}
}

// testHands checks that smartnatd notices, logs and repairs external modifications, that connections survive them, and that a forbidden
// source still does not get in.
func testHands(t *testing.T, w *world) {
	w.namespace(t, "hands", 2)
	allowed := []string{lab.ClientAddress + "/32", `"` + lab.ClientAddress6 + `/128"`}
	for i := range 70 { // enough for a set
		allowed = append(allowed, fmt.Sprintf("198.18.%d.0/24", i), fmt.Sprintf(`"2001:db8:f:%x::/64"`, i))
	}
	w.mapping(t, "hands", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 1600, servicePort: 8080}, {port: 1600, servicePort: 8080, protocol: udp}], allowedSources: [`+strings.Join(allowed, ", ")+"]")
	var addresses []string
	for _, external := range []string{"198.51.100.12", "203.0.113.12", "2001:db8:2::12"} {
		addresses = append(addresses, lab.Join(external, 1600))
		w.await(t, lab.Client, "tcp", addresses[len(addresses)-1], nil)
	}
	ctx := timeout(t, 3*time.Minute)
	traffic, stop := context.WithCancel(ctx)
	defer stop()
	group, traffic := errgroup.WithContext(traffic)
	for _, address := range addresses {
		for _, protocol := range protocols {
			flow, err := w.Host(lab.Client).OpenFlow(ctx, protocol, address, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = flow.Close() })
			group.Go(func() error { return keepTalking(traffic, protocol+" "+address, flow) })
			group.Go(func() error { return w.intrude(traffic, protocol, address) })
		}
	}
	before := sorted(w.kernel(ctx, t))
	for _, hand := range slices.Concat(w.plane.hands(), anyHands) {
		w.repair(ctx, t, hand, before, addresses)
	}
	stop()
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// repair applies a modification, and waits until it is logged and both the kernel and traffic are as before.
func (w *world) repair(ctx context.Context, t *testing.T, hand hand, before, addresses []string) {
	t.Helper()
	skip := len(w.daemon.Log())
	started := time.Now()
	if _, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-c", hand.script); err != nil {
		t.Fatal(err)
	}
	if hand.kind != "" {
		w.awaitLog(ctx, t, skip, "repaired", "kind="+hand.kind)
	} else if diff := gocmp.Diff(before, sorted(w.kernel(ctx, t))); diff != "" {
		t.Errorf("%s changed the kernel (-before +after):\n%s", hand.name, diff)
	}
	w.gateway(t, cmp.Or(hand.after, "true"))
	diff := gocmp.Diff(before, sorted(w.kernel(ctx, t)))
	for diff != "" && time.Since(started) < repaired {
		diff = gocmp.Diff(before, sorted(w.kernel(ctx, t)))
	}
	if diff != "" {
		t.Fatalf("%s: not repaired within %v (-before +after):\n%s\n%s", hand.name, repaired, diff, w.daemon.Log()[skip:])
	}
	t.Logf("%s at %s: repaired within %v", hand.name, started.Format(time.StampMilli), time.Since(started).Round(time.Millisecond))
	for _, address := range addresses {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, address, nil)
		}
	}
}

func sorted(text string) []string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return lines
}

// keepTalking exchanges messages on a flow until ctx ends. Packets may get lost until the repair: TCP retransmits them, and for UDP the
// next message follows.
func keepTalking(ctx context.Context, name string, flow *lab.Flow) error {
	udp := strings.HasPrefix(name, "udp")
	answered := time.Now()
	for rounds := 0; ctx.Err() == nil; rounds++ {
		limit := repaired
		if udp {
			limit = 500 * time.Millisecond
		}
		try, cancel := context.WithTimeout(ctx, limit)
		_, err := flow.Echo(try)
		cancel()
		switch {
		case err == nil:
			answered = time.Now()
		case ctx.Err() != nil, udp && time.Since(answered) < repaired:
		default:
			return fmt.Errorf("%s: an established connection broke at %s, after %d rounds: %w", name, time.Now().Format(time.StampMilli), rounds, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}

// intrude connects from an address that is not allowed until ctx ends, and fails if it gets an answer.
func (w *world) intrude(ctx context.Context, protocol, address string) error {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		answer, err := w.echo(try, lab.Client2, protocol, address)
		cancel()
		if err == nil {
			return fmt.Errorf("%s to %s: answered %+v to a source that is not allowed", protocol, address, answer)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}

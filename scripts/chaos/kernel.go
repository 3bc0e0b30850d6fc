// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/scripts/lab"
)

// dumpScript prints what smartnatd programs. Rules of policy routing with the same priority are for different marks, so that
// their order means nothing. A table that was never asked for does not exist yet. How a set hashes is another matter each
// time it is made.
const dumpScript = `
iptables-save; echo family IPv6; ip6tables-save; echo other
ipset save | sed 's/ hash:.*//' | sort
ip -4 rule | sort; ip -6 rule | sort
ip -4 route show table all proto 83 | sort; ip -6 route show table all proto 83 | sort
for key in ip_forward conf/all/rp_filter conf/eth0/rp_filter conf/eth1/rp_filter conf/eth2/rp_filter; do
	echo $key $(cat /proc/sys/net/ipv4/$key)
done
for key in conf/all/forwarding conf/default/forwarding conf/eth1/accept_ra conf/eth2/accept_ra fib_multipath_hash_policy; do
	echo $key $(cat /proc/sys/net/ipv6/$key)
done`

// kernel is what the gateway's kernel holds, as text that is equal when it does the same.
func (w *world) kernel(ctx context.Context) (string, error) {
	out, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec", dumpScript)
	return canonical(out), err
}

// canonical leaves counters, comments, empty chains of the kernel's own and the order of chains out of what iptables-save
// printed; the order of rules within a chain stays.
func canonical(dump string) string {
	chains := map[string][]string{}
	var rest []string
	family, table := "IPv4", ""
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line == "COMMIT":
		case strings.HasPrefix(line, "family "):
			family = strings.TrimPrefix(line, "family ")
		case line == "other":
			table = ""
		case line[0] == '*':
			table = line
		case table == "":
			rest = append(rest, line)
		case line[0] == ':':
			name, policy, _ := strings.Cut(line[1:], " ")
			if policy, _, _ = strings.Cut(policy, " "); policy != "ACCEPT" {
				key := family + " " + table + " " + name
				chains[key] = append(chains[key], "policy "+policy)
			}
		default:
			_, rule, _ := strings.Cut(line, "-A ")
			name, rule, _ := strings.Cut(rule, " ")
			key := family + " " + table + " " + name
			chains[key] = append(chains[key], rule)
		}
	}
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(chains)) {
		fmt.Fprintf(&text, "%s\n\t%s\n", key, strings.Join(chains[key], "\n\t"))
	}
	return text.String() + strings.Join(rest, "\n") + "\n"
}

// settlement bounds how long the kernel may take to hold what it should.
const settlement = 90 * time.Second

// poll is lab.Poll for so long.
func poll(ctx context.Context, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, settlement)
	defer cancel()
	return lab.Poll(ctx, check)
}

// settle waits until the kernel holds what it should and returns when that was seen.
func (w *world) settle(ctx context.Context) (time.Time, error) {
	var differs error
	err := poll(ctx, func(ctx context.Context) error {
		have, err := w.kernel(ctx)
		if err != nil {
			return errors.Join(err, differs)
		}
		if diff := cmp.Diff(strings.Split(w.desired[w.canary], "\n"), strings.Split(have, "\n")); diff != "" {
			differs = fmt.Errorf("the kernel differs from what is desired (-desired +kernel):\n%s", diff)
			return differs
		}
		return nil
	})
	return time.Now(), err
}

// learn takes what the kernel holds once it holds what is asked for, and nothing has changed for a while, as what it should.
func (w *world) learn(ctx context.Context) error {
	before, since := "", time.Now()
	return poll(ctx, func(ctx context.Context) error {
		have, err := w.kernel(ctx)
		if err != nil {
			return err
		}
		if have != before {
			before, since = have, time.Now()
		}
		for _, ip := range w.endpoints {
			if !strings.Contains(have, "--to-destination "+ip) && !strings.Contains(have, "--to-destination ["+ip+"]") {
				return fmt.Errorf("no rule leads to the pod %s:\n%s", ip, have)
			}
		}
		if port := canaryPorts[w.canary]; !strings.Contains(have, fmt.Sprintf("--dport %d ", port)) {
			return fmt.Errorf("no rule leads the canary's port %d", port)
		}
		if time.Since(since) < time.Second {
			return fmt.Errorf("the kernel still changes")
		}
		w.desired[w.canary] = have
		return nil
	})
}

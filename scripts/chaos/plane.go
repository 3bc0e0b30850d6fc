// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/scripts/lab"
)

// Names of data planes, as in the config.
const planeIPTables, planeNFTables = "iptables", "nftables"

// plane is the gateway's data plane: what differs between data planes in a run.
type plane interface {
	// config is the line of the config that chooses it.
	config() string
	// prepare prepares the gateway before smartnatd starts.
	prepare(ctx context.Context, w *world) error
	// rules returns the packet rules as text, equal for equal behaviour.
	rules(ctx context.Context, gateway *lab.Host) (string, error)
	// leads and serves are parts of rules that lead to a pod and that serve a TCP port.
	leads(ip string) string
	serves(port int) string
	// writes counts writes of rules, until stop is called.
	writes(ctx context.Context, w *world) (count func() int, stop func(), err error)
}

func (p plan) plane() plane {
	if p.Dataplane == planeNFTables {
		return native{}
	}
	return iptables{}
}

// describe names the data plane in reports.
func (p plan) describe() string {
	if p.Dataplane == planeNFTables {
		return planeNFTables
	}
	return planeIPTables + " " + p.Variant
}

// applies reports whether a fault can happen with the data plane.
func (p plan) applies(f fault) bool {
	return (f.dataplane == "" || f.dataplane == p.Dataplane) && (f.iptables == "" || f.iptables == p.Variant)
}

// native is the data plane nftables.
type native struct{}

func (native) config() string                        { return "dataplane: nftables\n" }
func (native) prepare(context.Context, *world) error { return nil }
func (native) leads(ip string) string                { return " : " + ip + " . " }
func (native) serves(port int) string                { return fmt.Sprintf(" . tcp . %d ", port) }
func (native) rules(ctx context.Context, gateway *lab.Host) (string, error) {
	return gateway.NFTables(ctx, "smartnat")
}

// writes implements plane. It counts transactions.
func (native) writes(ctx context.Context, w *world) (count func() int, stop func(), err error) {
	count, monitor, err := w.Host(lab.Gateway).CountTransactions(ctx)
	return count, func() { _ = monitor.Kill() }, err
}

// iptables is the data plane of that name.
type iptables struct{}

func (iptables) config() string { return "" }
func (iptables) leads(ip string) string {
	return "--to-destination " + strings.TrimSuffix(lab.Join(ip, 0), "0")
}
func (iptables) serves(port int) string { return fmt.Sprintf("--dport %d ", port) }

// iptablesScript prints rules and sets. A table that was never used does not exist yet. The hash parameters of a set change each
// time it is created.
const iptablesScript = "iptables-save; echo family IPv6; ip6tables-save; echo other; ipset save | sed 's/ hash:.*//' | sort"

func (iptables) rules(ctx context.Context, gateway *lab.Host) (string, error) {
	out, err := gateway.Exec(ctx, "sh", "-ec", iptablesScript)
	return canonical(out), err
}

// canonical removes counters, comments, empty built-in chains and the order of chains from the output of iptables-save; it keeps the
// order of rules within a chain.
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

// restores is the file that records every run of a restore program, except for version queries.
const restores = "/run/restores"

// prepare implements plane. It replaces the gateway's restore programs by scripts that record their runs.
func (iptables) prepare(ctx context.Context, w *world) error {
	for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
		link, err := w.restoreProgram(ctx, name)
		if err != nil {
			return err
		}
		program, err := os.Readlink(link)
		if err != nil {
			return fmt.Errorf("the lab's %s: %w", name, err)
		}
		script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --version ] || echo %s >> %s\nexec %s \"$@\"\n", name, restores, program)
		if err := errors.Join(os.Remove(link), os.WriteFile(link, []byte(script), 0o755)); err != nil {
			return err
		}
	}
	return w.Host(lab.Gateway).WriteFile(restores, "")
}

// restoreProgram returns the path of a program on the gateway.
func (w *world) restoreProgram(ctx context.Context, name string) (string, error) {
	out, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-c", "command -v "+name)
	return strings.TrimSpace(out), err
}

// writes implements plane. It returns the number of runs of the restore programs.
func (iptables) writes(_ context.Context, w *world) (count func() int, stop func(), err error) {
	return func() int {
		text, err := w.Host(lab.Gateway).ReadFile(restores)
		if err != nil {
			return 0
		}
		return strings.Count(text, "\n")
	}, func() {}, nil
}

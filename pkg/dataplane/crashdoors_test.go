// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

var errCrashed = errors.New("killed for the test")

// life counts the writes that a process makes before it is killed.
type life struct {
	left int
	// done lists the writes that it made.
	done []string
}

// write runs do unless the process is dead.
func (l *life) write(step string, do func() error) error {
	if l.left == 0 {
		return errCrashed
	}
	if err := do(); err != nil {
		return err
	}
	l.left--
	l.done = append(l.done, step)
	return nil
}

// mortal returns a new Dataplane that is killed after this number of writes. An operation that takes several steps counts as
// several writes, so that the process also dies between the steps.
func mortal(opts parts, writes int) (*dataplane.Dataplane, *life) {
	l := &life{left: writes}
	return opts.mortal(l), l
}

type mortalProgram struct {
	iptables.Program
	life *life
}

// Restore commits table by table, as iptables-restore does.
func (m mortalProgram) Restore(ctx context.Context, batch ruleset.Batch) error {
	for _, table := range batch.Tables {
		one := ruleset.Batch{Family: batch.Family, Tables: []ruleset.TableBatch{table}}
		err := m.life.write(fmt.Sprintf("IPv%d %s", batch.Family, table.Name), func() error { return m.Program.Restore(ctx, one) })
		if err != nil {
			return err
		}
	}
	return nil
}

// IsOnlyWrite is always false, because the tables are written one by one.
func (m mortalProgram) IsOnlyWrite(uint64, uint64, int) bool { return false }

type mortalSets struct {
	iptables.Sets
	own  gateway.Ownership
	life *life
}

// Put first writes half of the set. If the set exists, the half has a temporary name, as the real Put replaces a set by a swap.
func (m mortalSets) Put(set ruleset.Set) error {
	half := ruleset.Set{Name: set.Name, Family: set.Family, Members: set.Members[:len(set.Members)/2]}
	present, err := m.Observe()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(present, func(s ruleset.Set) bool { return s.Name == set.Name }) {
		half.Name = m.own.SetPrefix + "next"
	}
	if err := m.life.write("put half of set "+set.Name, func() error { return m.Sets.Put(half) }); err != nil {
		return err
	}
	return m.life.write("put set "+set.Name, func() error {
		if half.Name != set.Name {
			if err := m.Sets.Destroy(half.Name); err != nil {
				return err
			}
		}
		return m.Sets.Put(set)
	})
}

// Change adds in two steps and removes in two steps.
func (m mortalSets) Change(set ruleset.Set, add, remove []netip.Prefix) error {
	for _, part := range []struct{ add, remove []netip.Prefix }{
		{add: add[:len(add)/2]}, {add: add[len(add)/2:]}, {remove: remove[:len(remove)/2]}, {remove: remove[len(remove)/2:]},
	} {
		if len(part.add)+len(part.remove) == 0 {
			continue
		}
		step := fmt.Sprintf("change set %s +%d -%d", set.Name, len(part.add), len(part.remove))
		if err := m.life.write(step, func() error { return m.Sets.Change(set, part.add, part.remove) }); err != nil {
			return err
		}
	}
	return nil
}

func (m mortalSets) Destroy(name string) error {
	return m.life.write("destroy set "+name, func() error { return m.Sets.Destroy(name) })
}

type mortalRoutes struct {
	dataplane.Routes
	life *life
}

// Apply executes one change after the other until the process is killed.
func (m mortalRoutes) Apply(changes policyrouting.Changes) (policyrouting.Changes, error) {
	var done policyrouting.Changes
	for _, one := range single(changes) {
		err := m.life.write(one.Commands()[0], func() error {
			applied, err := m.Routes.Apply(one)
			done = done.Append(applied)
			return err
		})
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// single splits changes into single ones, in the order of execution.
func single(changes policyrouting.Changes) []policyrouting.Changes {
	var all []policyrouting.Changes
	for i := range changes.AddRoutes {
		all = append(all, policyrouting.Changes{AddRoutes: changes.AddRoutes[i : i+1]})
	}
	for i := range changes.ReplaceRoutes {
		all = append(all, policyrouting.Changes{ReplaceRoutes: changes.ReplaceRoutes[i : i+1]})
	}
	for i := range changes.AddRules {
		all = append(all, policyrouting.Changes{AddRules: changes.AddRules[i : i+1]})
	}
	for i := range changes.DeleteRules {
		all = append(all, policyrouting.Changes{DeleteRules: changes.DeleteRules[i : i+1]})
	}
	for i := range changes.DeleteRoutes {
		all = append(all, policyrouting.Changes{DeleteRoutes: changes.DeleteRoutes[i : i+1]})
	}
	return all
}

type mortalSysctls struct {
	dataplane.Sysctls
	life *life
}

func (m mortalSysctls) Set(key, value string) error {
	return m.life.write("sysctl "+key+"="+value, func() error { return m.Sysctls.Set(key, value) })
}

// Restore restores one parameter after the other.
func (m mortalSysctls) Restore(keep ...string) ([]string, error) {
	all := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}
	for _, pattern := range []string{"net/ipv4/conf/*/rp_filter", "net/ipv6/conf/*/accept_ra"} {
		keys, err := m.List(pattern)
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	var restored []string
	for i, key := range all {
		if slices.Contains(keep, key) {
			continue
		}
		if m.life.left == 0 {
			return restored, errCrashed
		}
		one, err := m.Sysctls.Restore(slices.Concat(keep, all[:i], all[i+1:])...)
		if err != nil {
			return restored, err
		}
		if len(one) > 0 {
			m.life.left--
			m.life.done = append(m.life.done, "sysctl back "+key)
		}
		restored = append(restored, one...)
	}
	return restored, nil
}

type mortalConntrack struct {
	dataplane.Conntrack
	life *life
}

// EndStale does nothing in a dead process.
func (m mortalConntrack) EndStale(ctx context.Context, since *gateway.State, state gateway.State) (int, error) {
	if m.life.left == 0 {
		return 0, errCrashed
	}
	return m.Conntrack.EndStale(ctx, since, state)
}

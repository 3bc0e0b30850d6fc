// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package iptablestest fakes the kernel below a Dataplane with iptables, for tests. It executes writes as the real kernel does, refuses what
// the real kernel refuses, fails on request, and keeps a journal of every write.
package iptablestest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"net/netip"
	"path"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Kernel is a fake kernel. It is not safe for concurrent use.
type Kernel struct {
	Tables    *Tables
	Sets      *Sets
	Routes    *Routes
	Sysctls   *Sysctls
	Conntrack *Conntrack
	// Fail, if set, runs before every step and returns the error of the step. A step has the text that Journal shows.
	Fail func(step string) error
	// Journal lists the executed writes.
	Journal []string
}

// New returns a kernel that does not forward, with these links up.
func New(links ...string) *Kernel {
	k := &Kernel{}
	k.Tables = &Tables{kernel: k, Rulesets: map[gateway.Family]ruleset.Ruleset{
		gateway.IPv4: {Family: gateway.IPv4}, gateway.IPv6: {Family: gateway.IPv6},
	}}
	k.Sets = &Sets{kernel: k, Members: map[string]ruleset.Set{}}
	k.Routes = &Routes{kernel: k, links: map[string]bool{}}
	k.Sysctls = &Sysctls{kernel: k, Values: map[string]string{
		"net/ipv4/ip_forward": "0", "net/ipv4/conf/all/rp_filter": "0",
		"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/all/accept_ra": "1", "net/ipv6/conf/default/accept_ra": "1",
	}, was: map[string]string{}}
	k.Conntrack = &Conntrack{kernel: k}
	for _, l := range links {
		k.Routes.SetLink(l, true)
		k.Sysctls.Values["net/ipv4/conf/"+l+"/rp_filter"] = "1"
		k.Sysctls.Values["net/ipv6/conf/"+l+"/accept_ra"] = "1"
		k.Sysctls.Values["net/ipv6/conf/"+l+"/accept_ra_pinfo"] = "1"
		k.Sysctls.Values["net/ipv6/conf/"+l+"/accept_ra_rt_info_max_plen"] = "64"
	}
	return k
}

func (k *Kernel) read(step string) error {
	if k.Fail == nil {
		return nil
	}
	return k.Fail(step)
}

func (k *Kernel) write(step string) error {
	if err := k.read(step); err != nil {
		return err
	}
	k.Journal = append(k.Journal, step)
	return nil
}

// Tables fakes netfilter.
type Tables struct {
	kernel *Kernel
	// Rulesets holds the rules of each family.
	Rulesets map[gateway.Family]ruleset.Ruleset
	// Saves and Restores count the calls.
	Saves, Restores int
	// Blind makes Stamp miss every change.
	Blind bool
	// Counting makes Stamp and Digest count the written tables, as nf_tables does. A test that plays another process adds to
	// Writes.
	Counting bool
	Writes   uint64
}

// Families returns the families of Rulesets, IPv4 first.
func (t *Tables) Families() []gateway.Family { return slices.Sorted(maps.Keys(t.Rulesets)) }

// Save returns the rules of the family. Its step is "IPv4 save".
func (t *Tables) Save(_ context.Context, family gateway.Family) (ruleset.Ruleset, error) {
	t.Saves++
	if err := t.kernel.read(fmt.Sprintf("IPv%d save", family)); err != nil {
		return ruleset.Ruleset{}, err
	}
	return t.Rulesets[family], nil
}

// Watch calls changed once.
func (t *Tables) Watch(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

// Stamp changes with every change, unless the tables are Blind.
func (t *Tables) Stamp(family gateway.Family) (uint64, error) {
	if err := t.kernel.read(fmt.Sprintf("IPv%d stamp", family)); err != nil || t.Blind {
		return 0, err
	}
	if t.Counting {
		return t.Writes, nil
	}
	return digest(t.Rulesets[family]), nil
}

// Digest changes with every change.
func (t *Tables) Digest(family gateway.Family) (uint64, error) {
	if err := t.kernel.read(fmt.Sprintf("IPv%d digest", family)); err != nil {
		return 0, err
	}
	if t.Counting {
		return t.Writes, nil
	}
	return digest(t.Rulesets[family]), nil
}

// IsOnlyWrite can be true only if writes are counted.
func (t *Tables) IsOnlyWrite(before, after uint64, tables int) bool {
	return t.Counting && after-before == uint64(tables)
}

var seed = maphash.MakeSeed()

func digest(rs ruleset.Ruleset) uint64 { return maphash.Bytes(seed, ruleset.Render(rs)) }

// Restore commits table by table, so an error leaves the earlier tables written. Its steps are "IPv4 mangle" and so on.
func (t *Tables) Restore(_ context.Context, batch ruleset.Batch) error {
	t.Restores++
	for _, table := range batch.Tables {
		one := ruleset.Batch{Family: batch.Family, Tables: []ruleset.TableBatch{table}}
		if err := t.check(t.Rulesets[batch.Family], one); err != nil {
			return err
		}
		if err := t.kernel.write(fmt.Sprintf("IPv%d %s", batch.Family, table.Name)); err != nil {
			return err
		}
		t.Rulesets[batch.Family] = ruleset.Apply(t.Rulesets[batch.Family], one)
		t.Writes++
	}
	return nil
}

// check refuses what iptables-restore refuses.
func (t *Tables) check(have ruleset.Ruleset, b ruleset.Batch) error {
	table := b.Tables[0]
	before := chains(have, table.Name)
	for _, name := range table.Delete {
		if _, found := before[name]; !found {
			return fmt.Errorf("IPv%d %s: -X %s: no such chain", b.Family, table.Name, name)
		}
	}
	for _, r := range table.Remove {
		if !slices.Contains(before[r.Chain], r.Rule) {
			return fmt.Errorf("IPv%d %s: -D %s %v: no such rule", b.Family, table.Name, r.Chain, r.Rule)
		}
	}
	after := chains(ruleset.Apply(have, b), table.Name)
	for name, rules := range after {
		for _, r := range rules {
			if _, found := after[r.Target.Chain]; r.Target.Chain != "" && !found {
				return fmt.Errorf("IPv%d %s: chain %s jumps to %s, which does not exist", b.Family, table.Name, name, r.Target.Chain)
			}
			if _, found := t.kernel.Sets.Members[r.SourceSet.Name]; r.SourceSet.Name != "" && !found {
				return fmt.Errorf("IPv%d %s: chain %s names the set %s, which does not exist", b.Family, table.Name, name, r.SourceSet.Name)
			}
		}
	}
	return nil
}

func chains(rs ruleset.Ruleset, table string) map[string][]ruleset.Rule {
	byName := map[string][]ruleset.Rule{}
	for _, t := range rs.Tables {
		if t.Name != table {
			continue
		}
		for _, c := range t.Chains {
			byName[c.Name] = c.Rules
		}
	}
	return byName
}

// Routes fakes policy routing.
type Routes struct {
	kernel *Kernel
	links  map[string]bool
	// Set holds our routes and rules.
	Set policyrouting.Set
	// Observations counts the calls of Observe.
	Observations int
}

// SetLink brings a link up or down. A link that goes down loses its routes.
func (r *Routes) SetLink(link string, up bool) {
	r.links[link] = up
	if !up {
		r.Set.Routes = slices.DeleteFunc(slices.Clone(r.Set.Routes), func(o policyrouting.Route) bool { return o.Link == link })
	}
}

// Observe returns the Set. Its step is "observe routes".
func (r *Routes) Observe() (policyrouting.Set, error) {
	r.Observations++
	if err := r.kernel.read("observe routes"); err != nil {
		return policyrouting.Set{}, err
	}
	return policyrouting.Set{Rules: slices.Clone(r.Set.Rules), Routes: slices.Clone(r.Set.Routes)}, nil
}

// Apply executes the changes as far as it can. Its steps are the commands of iproute2.
func (r *Routes) Apply(changes policyrouting.Changes) (policyrouting.Changes, error) {
	var done policyrouting.Changes
	var errs []error
	step := func(one policyrouting.Changes, do func() error) {
		err := r.kernel.read(one.Commands()[0])
		if err == nil {
			err = do()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", one.Commands()[0], err))
			return
		}
		r.kernel.Journal = append(r.kernel.Journal, one.Commands()[0])
		done = done.Append(one)
	}
	for _, route := range changes.AddRoutes {
		step(policyrouting.Changes{AddRoutes: []policyrouting.Route{route}}, func() error { return r.put(route) })
	}
	for _, route := range changes.ReplaceRoutes {
		step(policyrouting.Changes{ReplaceRoutes: []policyrouting.Route{route}}, func() error { return r.put(route) })
	}
	for _, rule := range changes.AddRules {
		step(policyrouting.Changes{AddRules: []policyrouting.Rule{rule}}, func() error {
			if !slices.Contains(r.Set.Rules, rule) {
				r.Set.Rules = append(r.Set.Rules, rule)
			}
			return nil
		})
	}
	for _, rule := range changes.DeleteRules {
		step(policyrouting.Changes{DeleteRules: []policyrouting.Rule{rule}}, func() error {
			r.Set.Rules = slices.DeleteFunc(r.Set.Rules, func(o policyrouting.Rule) bool { return o == rule })
			return nil
		})
	}
	for _, route := range changes.DeleteRoutes {
		step(policyrouting.Changes{DeleteRoutes: []policyrouting.Route{route}}, func() error {
			r.Set.Routes = slices.DeleteFunc(r.Set.Routes, route.Equal)
			return nil
		})
	}
	r.Set.Sort()
	return done, errors.Join(errs...)
}

func (r *Routes) put(route policyrouting.Route) error {
	if route.Link != "" && !r.links[route.Link] {
		return fmt.Errorf("link %s: network is down", route.Link)
	}
	if len(route.Gateways) > 0 && !route.OnLink && route.Table != policyrouting.MainTable && !r.reaches(route, route.Gateways[0]) {
		return fmt.Errorf("gateway %s: network is unreachable", route.Gateways[0])
	}
	r.Set.Routes = slices.DeleteFunc(r.Set.Routes, func(o policyrouting.Route) bool {
		return o.Table == route.Table && o.Destination == route.Destination && o.Metric == route.Metric
	})
	r.Set.Routes = append(r.Set.Routes, route)
	return nil
}

func (r *Routes) reaches(route policyrouting.Route, gw netip.Addr) bool {
	return gw.IsLinkLocalUnicast() || slices.ContainsFunc(r.Set.Routes, func(o policyrouting.Route) bool {
		return o.Table == route.Table && o.Link == route.Link && len(o.Gateways) == 0 && o.Destination.Contains(gw)
	})
}

// Sysctls fakes the kernel parameters.
type Sysctls struct {
	kernel *Kernel
	// Values holds the existing parameters.
	Values map[string]string
	// Unreadable maps parameters that cannot be read to the error.
	Unreadable map[string]error
	was        map[string]string
}

// Get returns a parameter.
func (s *Sysctls) Get(key string) (string, error) {
	if err := s.Unreadable[key]; err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	value, found := s.Values[key]
	if !found {
		return "", fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	return value, nil
}

// List returns the parameters that match.
func (s *Sysctls) List(pattern string) ([]string, error) {
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(s.Values)) {
		if matches, err := path.Match(pattern, key); err != nil {
			return nil, err
		} else if matches {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// Set changes a parameter. Its step is, for example, "sysctl net/ipv4/ip_forward=1".
func (s *Sysctls) Set(key, value string) error {
	if err := s.kernel.write("sysctl " + key + "=" + value); err != nil {
		return err
	}
	s.was[key], s.Values[key] = s.Values[key], value
	return nil
}

// Restore undoes Set, except for the parameters in keep.
func (s *Sysctls) Restore(keep ...string) ([]string, error) {
	var restored []string
	for _, key := range slices.Sorted(maps.Keys(s.was)) {
		if slices.Contains(keep, key) {
			continue
		}
		if err := s.kernel.write("sysctl " + key + "=" + s.was[key]); err != nil {
			return nil, err
		}
		s.Values[key] = s.was[key]
		delete(s.was, key)
		restored = append(restored, key)
	}
	return restored, nil
}

// Conntrack fakes a connection table without connections.
type Conntrack struct {
	kernel *Kernel
	// Calls holds the arguments of all calls of EndStale.
	Calls []EndStale
	// Stale is the number of connections that the next EndStale ends.
	Stale int
	// IsPending is the result of Pending.
	IsPending bool
}

// Pending returns IsPending.
func (c *Conntrack) Pending() bool { return c.IsPending }

// EndStale is a call of Conntrack.EndStale.
type EndStale struct {
	Since *gateway.State
	State gateway.State
}

// EndStale records the states. Its step is "end connections". The step is not in Journal, because EndStale writes only if there
// is something to end.
func (c *Conntrack) EndStale(_ context.Context, since *gateway.State, state gateway.State) (int, error) {
	if err := c.kernel.read("end connections"); err != nil {
		return 0, err
	}
	c.Calls = append(c.Calls, EndStale{Since: since, State: state})
	ended := c.Stale
	c.Stale = 0
	return ended, nil
}

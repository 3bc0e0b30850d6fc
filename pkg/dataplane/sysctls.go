// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

const (
	ipForward   = "net/ipv4/ip_forward"
	ipv6Forward = "net/ipv6/conf/all/forwarding"
	// acceptRA says on each link whether router advertisements are taken: never, by hosts, or by routers too. That of all
	// means nothing to the kernel, that of default is given to links that come.
	acceptRA    = "net/ipv6/conf/*/accept_ra"
	acceptRAAll = "net/ipv6/conf/all/accept_ra"
	byHosts     = "1"
	byRouters   = "2"
)

// What the kernel chooses a next hop by where there are several (ip-sysctl), for IPv6.
const (
	multipathHash = "net/ipv6/fib_multipath_hash_policy"
	// hashLabel is its default: addresses, protocol, and the flow label.
	hashLabel = "0"
	// hashPorts are addresses, protocol and ports.
	hashPorts = "1"
	// hashFields are those of another parameter, by default addresses and protocol: what it goes by for IPv4. Since Linux 5.14.
	hashFields = "3"
)

// The reverse path filter (ip-sysctl): the kernel goes by the larger of a link's value and that of all links.
const (
	strict = "1"
	loose  = "2"
)

// raPrefixes are what the kernel takes of a router advertisement beside the router itself, for a link (ip-sysctl): the
// networks that it says are on the link, and routes to networks of up to this length.
func raPrefixes(link string) []string {
	return []string{"net/ipv6/conf/" + link + "/accept_ra_pinfo", "net/ipv6/conf/" + link + "/accept_ra_rt_info_max_plen"}
}

// linkForward is of IPv4 alone, and of what comes in by the link. Whoever sets ip_forward sets that of all links.
func linkForward(link string) string { return "net/ipv4/conf/" + link + "/forwarding" }

func reversePathFilter(link string) string { return "net/ipv4/conf/" + link + "/rp_filter" }

// srcValidMark has the reverse path filter look a sender up with the mark of its packet (ip-sysctl). Tailscale and wg-quick
// turn it on. The kernel then looks for a backend that replies in the table of the uplink that the reply is marked for.
const srcValidMark = "net/ipv4/conf/all/src_valid_mark"

// filteringLinks returns the links on which a strict reverse path filter drops packets of ours, sorted: the uplinks, and
// where senders are looked up by mark any link that a reply may come in by.
func (d *Dataplane) filteringLinks(uplinks []string) ([]string, error) {
	links := slices.Clone(uplinks)
	byMark, err := d.opts.Sysctls.Get(srcValidMark)
	if err == nil && byMark != "0" {
		var keys []string
		keys, err = d.opts.Sysctls.List(reversePathFilter("*"))
		for _, key := range keys {
			if link := path.Base(path.Dir(key)); link != "all" && link != "default" && link != "lo" {
				links = append(links, link)
			}
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // A kernel before Linux 2.6.33.
		err = nil
	}
	slices.Sort(links)
	return slices.Compact(links), err
}

// setSysctls has links take packets whose answers would be sent another way: a strict filter becomes a loose one, and never
// more than that.
func (d *Dataplane) setSysctls(links []string, result *Result) error {
	d.unset = false
	var errs []error
	all, err := d.opts.Sysctls.Get(reversePathFilter("all"))
	if err != nil {
		errs = append(errs, err)
	}
	for _, link := range links {
		key := reversePathFilter(link)
		own, err := d.opts.Sysctls.Get(key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // The link went; its routes will tell.
		case err != nil:
			errs = append(errs, err)
		case own == loose || max(all, own) == strict:
			errs = append(errs, d.ensure(key, loose, result))
		default: // Somebody turned it off, or made it loose on all links.
			delete(d.sysctls, key)
		}
	}
	return errors.Join(errs...)
}

// startForwarding has the kernel forward a family. IPv4 it always does; IPv6 only where the state needs it, as that makes
// a router of the host, which means more there.
func (d *Dataplane) startForwarding(family netfilter.Family, n needs, result *Result) error {
	if family == netfilter.IPv4 {
		errs := []error{d.ensure(ipForward, "1", result)}
		for _, link := range n.uplinks {
			if err := d.ensure(linkForward(link), "1", result); !errors.Is(err, fs.ErrNotExist) { // The link went.
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
	if !n.ipv6 {
		return nil
	}
	if err := d.ignorePrefixes(n, result); err != nil {
		return err
	}
	is, err := d.opts.Sysctls.Get(ipv6Forward)
	if err != nil {
		return err
	}
	if is != "1" || d.listens() {
		// A router does not listen to other routers, and forgets what it heard from them, its own default route included,
		// unless it is told to before it becomes one. Whoever brings a link up may take that back.
		if err := d.listenToRouters(result); err != nil {
			return fmt.Errorf("not forwarding IPv6, which could cost this host its default route: %w", err)
		}
	}
	err = d.ensure(ipv6Forward, "1", result)
	if n.nextHops {
		err = errors.Join(err, d.keepNextHops(result))
	}
	return err
}

// keepNextHops has a connection to a ClusterIP go by the same node all its life. By its flow label it would not: TCP gives
// itself another one whenever it has to send something again, and another node's kube-proxy leads it to a pod that knows
// nothing of it. What somebody chose otherwise stays.
func (d *Dataplane) keepNextHops(result *Result) error {
	is, err := d.opts.Sysctls.Get(multipathHash)
	switch {
	case errors.Is(err, fs.ErrNotExist): // A kernel that chooses by one rule alone.
		return nil
	case err != nil:
		return err
	case is != hashLabel && is != hashFields:
		delete(d.sysctls, multipathHash)
		return nil
	}
	unset := d.unset
	err = d.ensure(multipathHash, hashFields, result)
	if errors.Is(err, syscall.EINVAL) {
		d.unset = unset
		err = d.ensure(multipathHash, hashPorts, result)
	}
	return err
}

// listens reports whether it is our doing that the host listens to routers while it is one.
func (d *Dataplane) listens() bool {
	for key := range d.sysctls {
		if matches, err := path.Match(acceptRA, key); matches && err == nil {
			return true
		}
	}
	return false
}

func (d *Dataplane) listenToRouters(result *Result) error {
	keys, err := d.opts.Sysctls.List(acceptRA)
	errs := []error{err}
	for _, key := range keys {
		is, err := d.opts.Sysctls.Get(key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // The link went.
		case err != nil:
			errs = append(errs, err)
		case is == byHosts && key != acceptRAAll:
			errs = append(errs, d.ensure(key, byRouters, result))
		}
	}
	return errors.Join(errs...)
}

// ignorePrefixes keeps a neighbour outside from announcing the network of the pods, whose packets would leave by the uplink
// then. It comes before the host listens to routers although it is one.
func (d *Dataplane) ignorePrefixes(n needs, result *Result) error {
	var errs []error
	for _, link := range n.ownPrefixes {
		for _, key := range raPrefixes(link) {
			// The link went, it has no IPv6, or the kernel takes no routes from advertisements.
			if err := d.ensure(key, "0", result); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func forwardsIPv6(state gateway.State) bool {
	n := len(state.Forwards) // those of IPv6 come last
	return n > 0 && state.Forwards[n-1].Address.Is6() ||
		slices.ContainsFunc(state.Egresses, func(e gateway.Egress) bool { return e.Address.Is6() })
}

// restoreSysctls puts back what the state does not need any more: what a link was given that is no uplink now, and what
// IPv6 was, where nothing of it is forwarded.
func (d *Dataplane) restoreSysctls(n needs, result *Result) error {
	keep := []string{ipForward}
	for _, link := range n.uplinks {
		keep = append(keep, linkForward(link))
	}
	for _, link := range d.filtering {
		keep = append(keep, reversePathFilter(link))
	}
	if n.ipv6 {
		keys, err := d.opts.Sysctls.List(acceptRA)
		if err != nil {
			return err
		}
		keep = append(append(keep, ipv6Forward), keys...)
		for _, link := range n.ownPrefixes {
			keep = append(keep, raPrefixes(link)...)
		}
	}
	if n.nextHops {
		keep = append(keep, multipathHash)
	}
	maps.DeleteFunc(d.sysctls, func(key, _ string) bool { return !slices.Contains(keep, key) })
	restored, err := d.opts.Sysctls.Restore(keep...)
	result.Sysctls = append(result.Sysctls, restored...)
	return err
}

// ensure sets a parameter. What is so already is left alone, and so is not ours to put back.
func (d *Dataplane) ensure(key, value string, result *Result) error {
	is, err := d.opts.Sysctls.Get(key)
	if err != nil {
		return err
	}
	if is == value {
		d.sysctls[key] = value
		return nil
	}
	if err := d.opts.Sysctls.Set(key, value); err != nil {
		d.unset = true
		return err
	}
	if d.sysctls[key] == value {
		result.Repaired = append(result.Repaired, Repair{KindSysctl, fmt.Sprintf("sysctl %s=%s: it was %s", key, value, is)})
	}
	d.sysctls[key] = value
	result.Sysctls = append(result.Sysctls, key)
	return nil
}

// lookAtSysctls reports whether a parameter is not as we set it, or others are to be set now. That one could not be set is
// known without a look.
func (d *Dataplane) lookAtSysctls() (bool, error) {
	if d.unset {
		return false, nil
	}
	changed := false
	var errs []error
	if d.settled != nil {
		links, err := d.filteringLinks(d.settled.uplinks)
		errs = append(errs, err)
		changed = err == nil && !slices.Equal(links, d.filtering)
	}
	for key, value := range d.sysctls {
		is, err := d.opts.Sysctls.Get(key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // The link went.
		case err != nil:
			errs = append(errs, err)
		case is != value:
			changed = true
		}
	}
	return changed, errors.Join(errs...)
}

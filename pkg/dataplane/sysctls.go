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
	"strconv"
	"syscall"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const (
	ipForward   = "net/ipv4/ip_forward"
	ipv6Forward = "net/ipv6/conf/all/forwarding"
	// acceptRA controls on each link whether the host accepts router advertisements: never, as a host only, or also as a router.
	// The kernel ignores the value of "all" and gives the value of "default" to new links.
	acceptRA    = "net/ipv6/conf/*/accept_ra"
	acceptRAAll = "net/ipv6/conf/all/accept_ra"
	byHosts     = "1"
	byRouters   = "2"
)

// Parameters by which the kernel selects one of several next hops (ip-sysctl), for IPv6.
const (
	multipathHash = "net/ipv6/fib_multipath_hash_policy"
	// hashLabel, the default, uses addresses, protocol and the flow label.
	hashLabel = "0"
	// hashPorts uses addresses, protocol and ports.
	hashPorts = "1"
	// hashFields uses the fields of another parameter, by default addresses and protocol. Since Linux 5.14.
	hashFields = "3"
)

// Values of the reverse path filter (ip-sysctl). The kernel uses the larger of a link's value and that of "all".
const (
	strict = "1"
	loose  = "2"
)

// raPrefixes returns the parameters that control the use of prefixes in router advertisements on a link (ip-sysctl): networks
// that are on the link, and routes to networks of up to this length.
func raPrefixes(link string) []string {
	return []string{"net/ipv6/conf/" + link + "/accept_ra_pinfo", "net/ipv6/conf/" + link + "/accept_ra_rt_info_max_plen"}
}

// linkForward is for IPv4 packets that come in by the link. Setting ip_forward sets it on all links.
func linkForward(link string) string { return "net/ipv4/conf/" + link + "/forwarding" }

// countTraffic makes the kernel count packets and bytes of connections that begin from now on (nf_conntrack-sysctl).
const countTraffic = "net/netfilter/nf_conntrack_acct"

// recordTimes makes the kernel record when connections began that begin from now on (nf_conntrack-sysctl).
const recordTimes = "net/netfilter/nf_conntrack_timestamp"

// liberalTCP makes the kernel accept segments outside of the window that it saw (nf_conntrack-sysctl): it did not see those that
// passed another gateway before the connection came back.
const liberalTCP = "net/netfilter/nf_conntrack_tcp_be_liberal"

// flowTimeout is the time in seconds after which a TCP connection without packets leaves the flowtable (nf_conntrack-sysctl), idleTimeout
// the one after which conntrack forgets an established connection.
const (
	flowTimeout = "net/netfilter/nf_flowtable_tcp_timeout"
	idleTimeout = "net/netfilter/nf_conntrack_tcp_timeout_established"
)

func reversePathFilter(link string) string { return "net/ipv4/conf/" + link + "/rp_filter" }

// srcValidMark makes the reverse path filter look up a sender with the mark of its packet (ip-sysctl). Tailscale and wg-quick
// enable it. For the reply of a backend, the kernel then uses the table of the uplink for which the reply is marked.
const srcValidMark = "net/ipv4/conf/all/src_valid_mark"

// filteringLinks returns the sorted links on which a strict reverse path filter drops our packets: the uplinks, or every link
// by which a reply may come in if senders are looked up by mark.
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
	if errors.Is(err, fs.ErrNotExist) { // Kernels before Linux 2.6.33 do not have it.
		err = nil
	}
	slices.Sort(links)
	return slices.Compact(links), err
}

// setSysctls makes a strict reverse path filter loose, so that links accept packets whose replies take another link. It never
// turns the filter off.
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
		case errors.Is(err, fs.ErrNotExist): // The link is gone; its routes report that.
		case err != nil:
			errs = append(errs, err)
		case own == loose || max(all, own) == strict:
			errs = append(errs, d.ensure(key, loose, result))
		default: // The administrator turned it off or made it loose on all links.
			delete(d.sysctls, key)
		}
	}
	return errors.Join(errs...)
}

// startForwarding makes the kernel forward a family. It enables IPv6 forwarding only if the state needs it, because that makes
// the host an IPv6 router, with more consequences than for IPv4.
func (d *Dataplane) startForwarding(family gateway.Family, n needs, result *Result) error {
	if family == gateway.IPv4 {
		errs := []error{d.ensure(ipForward, "1", result)}
		for _, link := range n.uplinks {
			if err := d.ensure(linkForward(link), "1", result); !errors.Is(err, fs.ErrNotExist) { // The link is gone.
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
		// An IPv6 router ignores router advertisements and forgets what it learned from them, including its own default route,
		// unless accept_ra says otherwise before forwarding starts. Bringing up a link may reset accept_ra.
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

// keepNextHops makes every packet of a connection to a ClusterIP take the same node. The flow label does not ensure that: TCP
// changes it when it retransmits, and kube-proxy on another node selects a pod that does not know the connection. An explicit
// choice of the administrator stays.
func (d *Dataplane) keepNextHops(result *Result) error {
	is, err := d.opts.Sysctls.Get(multipathHash)
	switch {
	case errors.Is(err, fs.ErrNotExist): // The kernel has no such choice.
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

// startCounting makes the kernel count traffic, now that the rules have loaded conntrack. A host that does not permit that, such as
// a container, or cannot record the old value, forwards all the same: the error is none of the State.
func (d *Dataplane) startCounting(result *Result) {
	d.ensureIfPermitted(countTraffic, "1", result)
}

// keepIdleFlows keeps idle connections in the flowtable for half the time that conntrack keeps others. The kernel renews the timeout of
// a connection in conntrack while it is in the flowtable, but only when less than five minutes of a day are left: without packets, a
// connection that has just left could be forgotten then (nf_flow_table_extend_ct_timeout in net/netfilter/nf_flow_table_core.c, Linux
// 6.12). Nor may the time be longer: a connection that leaves keeps the difference (flow_offload_fixup_ct). A host that does not permit
// it forwards all the same.
func (d *Dataplane) keepIdleFlows(result *Result) {
	text, err := d.opts.Sysctls.Get(idleTimeout)
	seconds, parseErr := strconv.Atoi(text)
	if err != nil || parseErr != nil || seconds < 2 {
		return
	}
	d.ensureIfPermitted(flowTimeout, strconv.Itoa(seconds/2), result)
}

// ensureIfPermitted sets a parameter that no rule depends on. An error is none of the State, and does not make the next Apply try again.
// One that is not about the parameter itself, such as a full disk, also comes from those that rules depend on.
func (d *Dataplane) ensureIfPermitted(key, value string, result *Result) {
	unset := d.unset
	if err := d.ensure(key, value, result); err != nil {
		d.unset = unset
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EROFS) {
			result.NotPermitted = errors.Join(result.NotPermitted, err)
		}
	}
}

// listens reports whether this Dataplane made the host accept router advertisements while it is a router.
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
		case errors.Is(err, fs.ErrNotExist): // The link is gone.
		case err != nil:
			errs = append(errs, err)
		case is == byHosts && key != acceptRAAll:
			errs = append(errs, d.ensure(key, byRouters, result))
		}
	}
	return errors.Join(errs...)
}

// ignorePrefixes prevents a neighbour from announcing the network of the pods, whose packets would then leave by the uplink. It
// runs before listenToRouters.
func (d *Dataplane) ignorePrefixes(n needs, result *Result) error {
	var errs []error
	for _, link := range n.ownPrefixes {
		for _, key := range raPrefixes(link) {
			unset := d.unset
			err := d.ensure(key, "0", result)
			switch {
			case errors.Is(err, fs.ErrNotExist): // The link is gone or has no IPv6, or the kernel takes no routes from advertisements.
			case errors.Is(err, syscall.EROFS) && d.ignoresRouters(link): // In a container on a node, which is a router.
				d.unset = unset
			default:
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// ignoresRouters reports whether a link accepts no router advertisement at all (ip-sysctl, accept_ra).
func (d *Dataplane) ignoresRouters(link string) bool {
	accepts, err := d.opts.Sysctls.Get("net/ipv6/conf/" + link + "/accept_ra")
	if err != nil || accepts == byRouters {
		return false
	}
	forwards, err := d.opts.Sysctls.Get("net/ipv6/conf/" + link + "/forwarding")
	return accepts == "0" || err == nil && forwards == "1"
}

func forwardsIPv6(state gateway.State) bool {
	n := len(state.Forwards) // IPv6 forwards come last
	return n > 0 && state.Forwards[n-1].Address.Is6() ||
		slices.ContainsFunc(state.Egresses, func(e gateway.Egress) bool { return e.Address.Is6() })
}

// restoreSysctls restores the parameters that the state no longer needs: those of links that are not uplinks any more, and
// those of IPv6 if nothing of it is forwarded.
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
	if d.opts.CountTraffic {
		keep = append(keep, countTraffic)
	}
	if d.opts.RecordTimes {
		keep = append(keep, recordTimes)
	}
	if d.opts.TakeOver {
		keep = append(keep, liberalTCP)
	}
	if n.flows {
		keep = append(keep, flowTimeout)
	}
	maps.DeleteFunc(d.sysctls, func(key, _ string) bool { return !slices.Contains(keep, key) })
	restored, err := d.opts.Sysctls.Restore(keep...)
	result.Sysctls = append(result.Sysctls, restored...)
	return err
}

// ensure sets a parameter. It leaves a parameter that has the value already, so that Restore does not touch it.
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

// checkSysctls reports whether a parameter differs from the value that we set, or whether other parameters must be set now. If
// a parameter could not be set, the next attempt is scheduled anyway.
func (d *Dataplane) checkSysctls() (bool, error) {
	if d.unset {
		return false, nil
	}
	changed := false
	var errs []error
	if d.hostInSync != nil {
		links, err := d.filteringLinks(d.hostInSync.uplinks)
		errs = append(errs, err)
		changed = err == nil && !slices.Equal(links, d.filtering)
	}
	for key, value := range d.sysctls {
		is, err := d.opts.Sysctls.Get(key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // The link is gone.
		case err != nil:
			errs = append(errs, err)
		case is != value:
			changed = true
		}
	}
	return changed, errors.Join(errs...)
}

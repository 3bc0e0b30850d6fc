// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/ha"
)

const pairSubject = "ha"

// PairHost checks the links and addresses of a pair against those of this host. programs are those that are missing.
func PairHost(cfg config.Config, host gateway.Host, missing []string) []Line {
	if !cfg.HA.Enabled() {
		return ok(pairSubject, "no pair is configured")
	}
	var lines []Line
	for _, program := range missing {
		lines = append(lines, one(Failed, pairSubject, "%s is not installed: this gateway works alone until it is, and 'smartnatd ha render --output /etc' wrote its config", program)...)
	}
	find := func(name string) *gateway.Link {
		i := slices.IndexFunc(host.Links, func(l gateway.Link) bool { return l.Name == name })
		if i < 0 {
			return nil
		}
		return &host.Links[i]
	}
	hasOwn := func(name, key string, own netip.Addr) {
		switch l := find(name); {
		case l == nil:
			lines = append(lines, one(Failed, pairSubject, "%s: there is no link %s on this host", key, name)...)
		case !slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == own }):
			lines = append(lines, one(Failed, pairSubject, "%s: %s does not have %s, which the config says is this host's own", key, name, own)...)
		}
	}
	hasOwn(cfg.HA.SyncLink, "syncAddress", cfg.HA.SyncAddress)
	for _, l := range cfg.HA.Links {
		for _, own := range l.Addresses {
			hasOwn(l.Interface, "links", own)
		}
		link := find(l.Interface)
		if link == nil {
			continue
		}
		for _, a := range slices.Concat(l.VirtualAddresses, l.Peers) {
			in := func(p netip.Prefix) bool { return !p.IsSingleIP() && p.Contains(a) }
			if !slices.ContainsFunc(link.Addresses, in) {
				lines = append(lines, one(Failed, pairSubject, "links: %s is in no network of %s (%v): neighbours would not find it there", a, l.Interface, networks(*link))...)
			}
		}
	}
	if len(lines) > 0 {
		return lines
	}
	return ok(pairSubject, "%d virtual addresses, peer %s", len(cfg.HA.VirtualAddresses()), cfg.HA.Peer)
}

func networks(l gateway.Link) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range l.Addresses {
		if n := p.Masked(); !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}

// Pair judges a pair as one of its boxes sees it.
func Pair(s ha.Status) []Line {
	var lines []Line
	add := func(level Level, format string, args ...any) {
		lines = append(lines, one(level, pairSubject, format, args...)...)
	}
	if s.Hook != nil && s.Hook.Problem != "" {
		add(Failed, "the hook for the role %q failed %d times: %s", s.Hook.Role, s.Hook.Attempts, s.Hook.Problem)
	}
	if s.SyncProblem != "" {
		add(Failed, "%s", s.SyncProblem)
	}
	if !s.Own.Healthy {
		add(Warning, "not everything is in effect here: see 'smartnatd status'")
	}
	for _, a := range s.Own.Missed {
		add(Warning, "neighbour %s does not answer", a)
	}
	if s.Own.Role.Role == ha.Stopped || s.Own.Role.Role == ha.Fault {
		add(Warning, "keepalived is in the state %q: this box cannot take over", s.Own.Role.Role)
	}
	if s.PeerProblem != "" || s.Peer == nil {
		add(Warning, "going on alone: %s", cmp.Or(s.PeerProblem, "the peer has not answered yet"))
		return lines
	}
	for _, line := range s.Differences {
		add(Failed, "%s", line)
	}
	if !s.Peer.Healthy {
		add(Warning, "not everything is in effect on the peer")
	}
	switch own, peer := s.Own.Role.Role, s.Peer.Role.Role; {
	case own == ha.Primary && peer == ha.Primary:
		add(Failed, "both boxes hold the virtual addresses: keepalived does not hear its peer; check links, addresses and peers, and that a firewall lets pass IP protocol 112")
	case own != ha.Primary && peer != ha.Primary:
		add(Failed, "no box holds all virtual addresses: does keepalived run?")
	}
	if len(lines) > 0 {
		return lines
	}
	return ok(pairSubject, "%s here, %s on the peer, and nothing differs", s.Own.Role.Role, s.Peer.Role.Role)
}

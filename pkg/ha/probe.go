// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

const (
	// MaxMisses is the number of questions without an answer in a row after which a neighbour counts as missed.
	MaxMisses = 3
	// minProbe and maxProbe bound the time between two questions.
	minProbe, maxProbe = 50 * time.Millisecond, 100 * time.Millisecond
	// maxNeighbours bounds those of a link, and maxWatched those of all links.
	maxNeighbours, maxWatched = 8, 256
)

// ProbeInterval returns the time between two questions to a neighbour, and for an answer: that of adverts, so that silent links take no longer than a
// dead box, within bounds for the neighbours' sake.
func ProbeInterval(h config.HA) time.Duration { return min(max(h.AdvertInterval, minProbe), maxProbe) }

// Neighbour is a host on a link of the pair that this box needs: the next hop of an uplink, or a node inside.
type Neighbour struct {
	Link    string
	Address netip.Addr
}

// Neighbours returns those of the links of a pair, by the routes of this host.
func Neighbours(h config.HA, state gateway.State, host gateway.Host) []Neighbour {
	var all []Neighbour
	for _, l := range h.Links {
		var of []netip.Addr
		for _, u := range state.Uplinks {
			if u.Link == l.Interface {
				of = append(of, u.Gateways...)
			}
		}
		for _, r := range host.Routes {
			if r.Link == l.Interface && r.Gateway.IsValid() {
				of = append(of, r.Gateway)
			}
		}
		own := func(a netip.Addr) bool {
			return slices.Contains(l.Addresses, a) || slices.Contains(l.Peers, a) || slices.Contains(l.VirtualAddresses, a)
		}
		// Adverts of a family come from an address of that family, and so do questions.
		unknown := func(a netip.Addr) bool { return !ofFamily(l.Addresses, a.Is4()).IsValid() }
		slices.SortFunc(of, netip.Addr.Compare)
		of = slices.DeleteFunc(slices.Compact(of), func(a netip.Addr) bool { return own(a) || unknown(a) })
		for _, a := range of[:min(len(of), maxNeighbours)] {
			all = append(all, Neighbour{l.Interface, a})
		}
	}
	return all[:min(len(all), maxWatched)]
}

// Misses counts for each Neighbour the questions in a row that it did not answer.
type Misses map[Neighbour]int

// Next returns the counts after another question to each of the neighbours.
func (m Misses) Next(neighbours []Neighbour, answered func(Neighbour) bool) Misses {
	next := Misses{}
	for _, n := range neighbours {
		next[n] = 0
		if !answered(n) {
			next[n] = m[n] + 1
		}
	}
	return next
}

// Missed returns the neighbours that count as missed, and Answering those that answered the last question, sorted.
func (m Misses) Missed() []netip.Addr { return m.between(MaxMisses, math.MaxInt) }

// Answering is described at Missed.
func (m Misses) Answering() []netip.Addr { return m.between(0, 0) }

func (m Misses) between(least, most int) []netip.Addr {
	var all []netip.Addr
	for n, misses := range m {
		if least <= misses && misses <= most {
			all = append(all, n.Address)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// lost returns for each link whether all of its neighbours have that many misses.
func (m Misses) lost(least int) map[string]bool {
	all := map[string]bool{}
	for n, misses := range m {
		before, known := all[n.Link]
		all[n.Link] = misses >= least && (before || !known)
	}
	return all
}

// Suspicious reports whether a link lost all its neighbours.
func (m Misses) Suspicious() bool {
	return slices.Contains(slices.Collect(maps.Values(m.lost(MaxMisses))), true)
}

// Doubtful reports whether no neighbour of a link answered the last question, so that the peer has to be asked: when they count as
// missed, it has asked them again.
func (m Misses) Doubtful() bool {
	return slices.Contains(slices.Collect(maps.Values(m.lost(1))), true)
}

// Doubts has for each Neighbour that did not answer the Questions of the peer at its first answer since.
type Doubts map[Neighbour]uint64

// Next returns the doubts after another answer of the peer.
func (d Doubts) Next(m Misses, peer Facts) Doubts {
	next := Doubts{}
	for n, misses := range m {
		if misses == 0 {
			continue
		}
		began, known := d[n]
		if !known || peer.Questions < began { // the peer started again
			began = peer.Questions
		}
		next[n] = began
	}
	return next
}

// newQuestions is the number of further questions after which the peer knows the answers to one that it asked since.
const newQuestions = 2

// GiveUp decides whether this box leaves the virtual addresses to its peer: if a link lost all its neighbours, and the peer sees one of
// them. If the peer misses them too, they died, and nothing is gained: what it saw before they were silent here does not count. A peer
// that does not answer (nil) may be dead: then this box goes on with the links that it has, unless it has none.
func (m Misses) GiveUp(peer *Facts, doubts Doubts) bool {
	lost := m.lost(MaxMisses)
	if peer == nil {
		return len(lost) > 0 && !slices.Contains(slices.Collect(maps.Values(lost)), false)
	}
	for n := range m {
		began, known := doubts[n]
		if lost[n.Link] && known && peer.Questions >= began+newQuestions && slices.Contains(peer.Answering, n.Address) {
			return true
		}
	}
	return false
}

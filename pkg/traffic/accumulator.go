// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Accumulator sums up what the kernel counts. Its memory is bounded by the number of Forwards, and during a reading by 4 bytes for
// each open connection. It is not safe for concurrent use.
type Accumulator struct {
	// forwards do not overlap and are sorted, in several lists.
	forwards [][]*gateway.Forward
	entries  map[gateway.Frontend]*entry
	// refusals are the last values of the kernel's counters.
	refusals map[refusalKey]uint64
	walk     *walk
	// lost is set if connections ended unseen since the last reading.
	lost bool
	// most is the number of entries from which on those without a Forward go without a reading.
	most int
}

// flows is what connections carried.
type flows struct {
	connections          uint64
	fromClient, toClient Volume
}

func (f flows) plus(o flows) flows {
	return flows{f.connections + o.connections, f.fromClient.plus(o.fromClient), f.toClient.plus(o.toClient)}
}

func (f flows) max(o flows) flows {
	return flows{max(f.connections, o.connections), f.fromClient.max(o.fromClient), f.toClient.max(o.toClient)}
}

// minus returns the difference to o, which is nowhere larger.
func (f flows) minus(o flows) flows {
	less := func(a, b Volume) Volume { return Volume{a.Packets - b.Packets, a.Bytes - b.Bytes} }
	return flows{f.connections - o.connections, less(f.fromClient, o.fromClient), less(f.toClient, o.toClient)}
}

// entry is what is known about a Frontend.
type entry struct {
	owner string
	// ended is the sum of the connections that ended; total is what was last reported.
	ended, total flows
	// live is the sum of the open connections of a reading.
	live              flows
	dropped, rejected uint64
	open              int
}

type refusalKey struct {
	reason      Reason
	protocol    gateway.Protocol
	destination netip.AddrPort
}

// walk is a reading of all open connections. They end while it lasts.
type walk struct {
	// seen are the IDs of the open connections so far. The kernel may list one twice, but then at once.
	seen []uint32
	// ended are the connections that ended since the walk began.
	ended []Flow
	// lost is set if connections ended unseen since then. The walk may have counted them.
	lost bool
}

// repeated is how far apart the kernel may list a connection twice: within one bucket of its table.
const repeated = 32

// NewAccumulator returns an Accumulator that knows no Forwards.
func NewAccumulator() *Accumulator {
	return &Accumulator{entries: map[gateway.Frontend]*entry{}, refusals: map[refusalKey]uint64{}}
}

// Follow sets the Forwards to count for. Finish forgets all others. Each list is sorted as in a State, and no two Forwards overlap.
func (a *Accumulator) Follow(forwards ...[]*gateway.Forward) { a.forwards = forwards }

// forwardOf returns the Forward for a destination, or nil.
func (a *Accumulator) forwardOf(protocol gateway.Protocol, destination netip.AddrPort) *gateway.Forward {
	for _, forwards := range a.forwards {
		if f := gateway.FindForward(forwards, protocol, destination); f != nil {
			return f
		}
	}
	return nil
}

// entryOf returns the entry for a destination, or nil if nothing forwards it.
func (a *Accumulator) entryOf(protocol gateway.Protocol, destination netip.AddrPort) *entry {
	f := a.forwardOf(protocol, destination)
	if f == nil {
		return nil
	}
	e := a.entries[f.Frontend]
	if e == nil || e.owner != f.Owner {
		if len(a.entries) >= a.most {
			a.forget()
		}
		e = &entry{owner: f.Owner}
		a.entries[f.Frontend] = e
	}
	return e
}

// forget removes the entries whose Forward is gone.
func (a *Accumulator) forget() {
	for frontend, e := range a.entries {
		f := a.forwardOf(frontend.Protocol, netip.AddrPortFrom(frontend.Address, frontend.Ports.First))
		if f == nil || f.Frontend != frontend || f.Owner != e.owner {
			delete(a.entries, frontend)
		}
	}
	const few = 1000
	a.most = max(few, 2*len(a.entries))
}

func (f Flow) carried() flows { return flows{1, f.FromClient, f.ToClient} }

// End counts a connection that ended.
func (a *Accumulator) End(f Flow) {
	if a.walk != nil {
		a.walk.ended = append(a.walk.ended, f)
		return
	}
	a.end(f)
}

func (a *Accumulator) end(f Flow) {
	if e := a.entryOf(f.Protocol, f.Destination); e != nil {
		e.ended = e.ended.plus(f.carried())
	}
}

// Lost records that connections ended which End did not count.
func (a *Accumulator) Lost() {
	a.lost = true
	if a.walk != nil {
		a.walk.lost = true
	}
}

// Begin begins a reading of all open connections.
func (a *Accumulator) Begin() {
	a.Abandon()
	a.walk = &walk{}
	for _, e := range a.entries {
		e.live, e.open = flows{}, 0
	}
}

// Open counts an open connection of the reading. Connections that conntrack is about to remove are none: End counts them.
func (a *Accumulator) Open(f Flow) {
	w := a.walk
	if slices.Contains(w.seen[max(0, len(w.seen)-repeated):], f.ID) {
		return
	}
	w.seen = append(w.seen, f.ID)
	if e := a.entryOf(f.Protocol, f.Destination); e != nil {
		e.live = e.live.plus(f.carried())
		e.open++
	}
}

// Finish ends the reading. The caller has passed to End all messages that the kernel sent until the last call of Open.
//
// A connection that ended during the reading is in the sum of open connections if Open saw it before, and is missing otherwise.
// From the next reading on, it counts as ended, with what it carried in the end.
func (a *Accumulator) Finish() {
	w := a.walk
	ended := make(map[uint32]bool, len(w.ended))
	for _, f := range w.ended {
		ended[f.ID] = false
	}
	if len(ended) > 0 {
		for _, id := range w.seen {
			if _, found := ended[id]; found {
				ended[id] = true
			}
		}
	}
	for _, f := range w.ended {
		if ended[f.ID] {
			continue
		}
		if e := a.entryOf(f.Protocol, f.Destination); e != nil {
			e.live = e.live.plus(f.carried())
		}
	}
	a.forget()
	for _, e := range a.entries {
		now := e.ended.plus(e.live)
		total := e.total.max(now)
		if a.lost {
			// Connections that ended unseen were in the last total. Continue from there.
			e.ended = e.ended.plus(total.minus(now))
		}
		e.total = total
	}
	a.lost = w.lost
	a.Abandon()
}

// Abandon ends a reading that failed. The totals stay.
func (a *Accumulator) Abandon() {
	if a.walk == nil {
		return
	}
	ended := a.walk.ended
	a.walk = nil
	for _, f := range ended {
		a.end(f)
	}
}

// Refuse adds what the kernel's counters grew since the last call. A counter that is lower than before started again at zero.
// whole means that refusals are all counters, so a missing one is gone.
func (a *Accumulator) Refuse(refusals []Refusal, whole bool) {
	now := a.refusals
	if whole {
		now = make(map[refusalKey]uint64, len(refusals))
	}
	for _, r := range refusals {
		key := refusalKey{r.Reason, r.Protocol, r.Destination}
		before, found := now[key]
		if !found {
			before = a.refusals[key]
		}
		grown := r.Packets
		if before <= r.Packets {
			grown -= before
		}
		now[key] = r.Packets
		if e := a.entryOf(r.Protocol, r.Destination); e != nil && grown > 0 {
			if r.Reason == NoEndpoints {
				e.rejected += grown
			} else {
				e.dropped += grown
			}
		}
	}
	a.refusals = now
}

// Entries returns the totals of the Frontends that have seen any packet, sorted by Frontend.
func (a *Accumulator) Entries() []Entry {
	entries := make([]Entry, 0, len(a.entries))
	for frontend, e := range a.entries {
		if e.total == (flows{}) && e.dropped+e.rejected == 0 {
			continue
		}
		entries = append(entries, Entry{Owner: e.owner, Frontend: frontend, Totals: Totals{
			Connections: e.total.connections, FromClient: e.total.fromClient, ToClient: e.total.toClient,
			Dropped: e.dropped, Rejected: e.rejected, Open: e.open,
		}})
	}
	slices.SortFunc(entries, func(x, y Entry) int { return x.Compare(y.Frontend) })
	return entries
}

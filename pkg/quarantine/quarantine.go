// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package quarantine

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// minDelay and maxDelay bound the retry delay of a refused part, which doubles with each refusal.
const (
	minDelay = time.Minute
	maxDelay = 32 * time.Minute
)

// soon is the minimum time between two tries of a part whose request has changed. It bounds the cost of a part that changes
// constantly and is always refused.
const soon = 10 * time.Second

// writesAfterRefusal is the maximum number of further writes in one Apply, each with more parts quarantined.
const writesAfterRefusal = 2

// Dataplane programs the kernel to match a State. It returns gateway.ErrRefused if the content of a write is refused.
type Dataplane interface {
	Apply(ctx context.Context, state gateway.State) (dataplane.Result, error)
	// Try reports whether the state would be refused. It changes nothing that a packet reaches; the next Apply removes its
	// leftovers.
	Try(ctx context.Context, state gateway.State) error
}

// Refusal describes a part that is quarantined.
type Refusal struct {
	// Owner is the Mapping, as namespace/name.
	Owner string
	// Family is the address family: 4 or 6.
	Family int
	// Why is the error of the refusal, on one line.
	Why string
	// Suspected means that the part was refused together with others and was not tried alone yet.
	Suspected bool
}

// Quarantine wraps a Dataplane and quarantines refused parts. It is not safe for concurrent use.
type Quarantine struct {
	dataplane Dataplane
	// last is the State in effect, or nil if unknown.
	last        *gateway.State
	quarantined map[part]*refusal
}

// part identifies what one owner requests in one address family.
type part struct {
	owner string
	// family is 4 or 6.
	family int
}

func partOf(owner string, address netip.Addr) part {
	if address.Is6() {
		return part{owner, 6}
	}
	return part{owner, 4}
}

// compare orders parts by family and then by owner. A search therefore finishes one family before it tries the other, which
// may fail for a reason of its own.
func (p part) compare(o part) int {
	return cmp.Or(cmp.Compare(p.family, o.family), strings.Compare(p.owner, o.owner))
}

// portion is the content of a State that belongs to one part.
type portion struct {
	forwards []*gateway.Forward
	egresses []gateway.Egress
}

// refusal is the record of a part that is quarantined.
type refusal struct {
	// wanted is the refused request and shared is the rest of that State without any part. before is what the part had in
	// effect.
	wanted, before portion
	shared         gateway.State
	why            string
	suspected      bool
	// tried is the time of the refusal, and due is the time of the next try, after delay.
	tried, due time.Time
	delay      time.Duration
}

// New returns a Quarantine with no part quarantined.
func New(d Dataplane) *Quarantine { return &Quarantine{dataplane: d, quarantined: map[part]*refusal{}} }

// Apply programs want except for refused parts. It returns the State that was applied and what was written. The error covers
// everything that is not the fault of a single part.
func (q *Quarantine) Apply(ctx context.Context, now time.Time, want gateway.State) (gateway.State, dataplane.Result, error) {
	portions := q.updateRequests(want)
	applied := q.compose(want)
	result, err := q.dataplane.Apply(ctx, applied)
	reapply := func() {
		applied = q.compose(want)
		var more dataplane.Result
		more, err = q.dataplane.Apply(ctx, applied)
		result = result.Append(more)
		q.recordInEffect(applied, more)
	}
	q.recordInEffect(applied, result)
	if result.InPlace && q.retry(ctx, now, want, portions) {
		reapply()
	}
	for n := 0; n < writesAfterRefusal && errors.Is(err, gateway.ErrRefused) && (q.findRefused(ctx, now, want) || q.dropKept()); n++ {
		reapply()
	}
	return applied, result, err
}

// recordInEffect records the State in effect.
func (q *Quarantine) recordInEffect(applied gateway.State, result dataplane.Result) {
	if result.InPlace {
		q.last = &applied
	}
}

// Refusals returns the parts that are quarantined, sorted by owner and family.
func (q *Quarantine) Refusals() []Refusal {
	var all []Refusal
	for p, r := range q.quarantined {
		all = append(all, Refusal{Owner: p.owner, Family: p.family, Why: r.why, Suspected: r.suspected})
	}
	slices.SortFunc(all, func(a, b Refusal) int {
		return cmp.Or(strings.Compare(a.Owner, b.Owner), cmp.Compare(a.Family, b.Family))
	})
	return all
}

// Due returns the time of the next retry, or the zero time if nothing is quarantined.
func (q *Quarantine) Due() time.Time {
	var first time.Time
	for _, r := range q.quarantined {
		if first.IsZero() || r.due.Before(first) {
			first = r.due
		}
	}
	return first
}

// updateRequests drops parts that are no longer requested and schedules an early retry for parts whose request or shared state
// has changed. It returns the current request of each part that is quarantined.
func (q *Quarantine) updateRequests(want gateway.State) map[part]portion {
	if len(q.quarantined) == 0 {
		return nil
	}
	portions := portionsOf(want, func(p part) bool { return q.quarantined[p] != nil })
	shared := withoutParts(want)
	for p, r := range q.quarantined {
		wanted, found := portions[p]
		if !found {
			delete(q.quarantined, p)
			continue
		}
		if early := r.tried.Add(soon); early.Before(r.due) && (!reflect.DeepEqual(wanted, r.wanted) || !reflect.DeepEqual(shared, r.shared)) {
			r.due, r.delay = early, 0
		}
	}
	return portions
}

// retry tries the parts that are due and reports whether it did. If so, another Apply must follow.
func (q *Quarantine) retry(ctx context.Context, now time.Time, want gateway.State, portions map[part]portion) bool {
	// Try suspected parts first, so that tries spent on parts known to be bad do not delay them again.
	var suspected, sure []part
	for p, r := range q.quarantined {
		switch {
		case now.Before(r.due):
		case r.suspected:
			suspected = append(suspected, p)
		default:
			sure = append(sure, p)
		}
	}
	s := q.search(ctx, want, portions)
	tried := false
	for _, due := range [][]part{suspected, sure} {
		if len(due) == 0 || s.left <= 0 {
			continue
		}
		slices.SortFunc(due, part.compare)
		s.try(due)
		for _, p := range due {
			if q.quarantined[p].recordRetry(now, portions[p], withoutParts(want), s, p); !s.mustStay(p) {
				delete(q.quarantined, p)
			}
		}
		tried = true
	}
	return tried
}

// recordRetry records the result of a retry.
func (r *refusal) recordRetry(now time.Time, wanted portion, shared gateway.State, s *search, p part) {
	r.tried, r.wanted, r.shared = now, wanted, shared
	r.delay = min(max(2*r.delay, minDelay), maxDelay)
	why, refused := s.refused[p]
	if !refused || s.suspected[p] {
		r.delay = minDelay // the retry was inconclusive
	} else {
		r.why, r.suspected = why, false
	}
	r.due = now.Add(r.delay)
}

// findRefused finds the refused parts and quarantines them. It returns false if there are none: the cause is then shared state,
// a combination of parts, or something temporary.
func (q *Quarantine) findRefused(ctx context.Context, now time.Time, want gateway.State) bool {
	portions := portionsOf(want, func(p part) bool { return q.quarantined[p] == nil })
	var before map[part]portion
	if q.last != nil {
		before = portionsOf(*q.last, func(p part) bool { _, found := portions[p]; return found })
	}
	// Unchanged parts were accepted before, so search the changed ones first.
	var changed, others []part
	for p, wanted := range portions {
		if reflect.DeepEqual(wanted, before[p]) {
			others = append(others, p)
		} else {
			changed = append(changed, p)
		}
	}
	s := q.search(ctx, want, portions)
	for _, suspects := range [][]part{changed, others} {
		slices.SortFunc(suspects, part.compare)
		if len(s.refused) == 0 && len(suspects) > 0 {
			s.findRefused(suspects)
		}
	}
	for p, why := range s.refused {
		q.quarantined[p] = &refusal{
			wanted: portions[p], before: before[p], shared: withoutParts(want), why: why, suspected: s.suspected[p],
			tried: now, due: now.Add(minDelay), delay: minDelay,
		}
	}
	return len(s.refused) > 0
}

// dropKept drops what quarantined parts still have in effect and reports whether there was anything to drop.
func (q *Quarantine) dropKept() bool {
	left := 0
	for _, r := range q.quarantined {
		left += len(r.before.forwards) + len(r.before.egresses)
		r.before = portion{}
	}
	return left > 0
}

// portionsOf returns the content of the wanted parts.
func portionsOf(state gateway.State, wanted func(part) bool) map[part]portion {
	portions := map[part]portion{}
	for _, f := range state.Forwards {
		if p := partOf(f.Owner, f.Address); wanted(p) {
			of := portions[p]
			of.forwards = append(of.forwards, f)
			portions[p] = of
		}
	}
	for _, e := range state.Egresses {
		if p := partOf(e.Owner, e.Address); wanted(p) {
			of := portions[p]
			of.egresses = append(of.egresses, e)
			portions[p] = of
		}
	}
	return portions
}

// withoutParts returns the state without any part.
func withoutParts(state gateway.State) gateway.State {
	state.Forwards, state.Egresses, state.Absent = nil, nil, gateway.Absent{}
	return state
}

// oneLine joins the lines of an error message.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// search returns a new search over portions.
func (q *Quarantine) search(ctx context.Context, want gateway.State, portions map[part]portion) *search {
	return &search{
		left: maxTries, refused: map[part]string{}, suspected: map[part]bool{},
		tryParts: func(parts []part) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return q.dataplane.Try(ctx, onlyParts(want, parts, portions))
		},
	}
}

// onlyParts returns the state with no parts except the given ones.
func onlyParts(state gateway.State, parts []part, portions map[part]portion) gateway.State {
	state = withoutParts(state)
	for _, p := range parts {
		state.Forwards = append(state.Forwards, portions[p].forwards...)
		state.Egresses = append(state.Egresses, portions[p].egresses...)
	}
	slices.SortFunc(state.Forwards, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
	slices.SortFunc(state.Egresses, func(a, b gateway.Egress) int {
		return cmp.Or(strings.Compare(a.Owner, b.Owner), a.Address.Compare(b.Address))
	})
	return state
}

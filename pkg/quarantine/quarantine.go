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

// A part that is refused again is tried again after twice the time, between these.
const (
	minDelay = time.Minute
	maxDelay = 32 * time.Minute
)

// soon is how long after a try the next one is made where there is reason to think that it ends otherwise. What changes all
// the time and is refused all the time is to cost little.
const soon = 10 * time.Second

// writesAfterRefusal bounds how often an Apply writes once more with more set aside.
const writesAfterRefusal = 2

// Dataplane brings the kernel to a State. Where it is refused something for what it says, the error is gateway.ErrRefused.
type Dataplane interface {
	Apply(ctx context.Context, state gateway.State) (dataplane.Result, error)
	// Try finds out whether what the state asks for is refused. It changes nothing that a packet meets; what it leaves
	// behind goes with the next Apply.
	Try(ctx context.Context, state gateway.State) error
}

// Refusal says of whom something is set aside.
type Refusal struct {
	// Owner is the Mapping, as namespace/name.
	Owner string
	// Family is the one that this is about, 4 or 6.
	Family int
	// Why is what was said when it was refused, on one line.
	Why string
	// Suspected is set when it was refused together with others, and nobody knows yet whether it would be alone.
	Suspected bool
}

// Quarantine is a Dataplane that one bad part does not hold up. It is not safe for several goroutines.
type Quarantine struct {
	dataplane Dataplane
	// last is what is in effect, nil where nobody knows.
	last  *gateway.State
	aside map[part]*refusal
}

// part is what one owner asks for in one family.
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

// compare puts the families behind one another: where nothing can be found out of one, the other is done with first.
func (p part) compare(o part) int {
	return cmp.Or(cmp.Compare(p.family, o.family), strings.Compare(p.owner, o.owner))
}

// portion is what a State says of a part.
type portion struct {
	forwards []*gateway.Forward
	egresses []gateway.Egress
}

// refusal is a part that is set aside.
type refusal struct {
	// wanted is what was refused, among what all share; before is what was in effect until then.
	wanted, before portion
	shared         gateway.State
	why            string
	suspected      bool
	// tried is when it was refused, and due when it is tried again, after the delay.
	tried, due time.Time
	delay      time.Duration
}

// New returns a Quarantine in which nobody is.
func New(d Dataplane) *Quarantine { return &Quarantine{dataplane: d, aside: map[part]*refusal{}} }

// Apply brings the kernel to the state, but for what is refused, and returns what was applied and what was written. The error
// is about all that is no single part's fault.
func (q *Quarantine) Apply(ctx context.Context, now time.Time, want gateway.State) (gateway.State, dataplane.Result, error) {
	portions := q.review(want)
	applied := q.compose(want)
	result, err := q.dataplane.Apply(ctx, applied)
	again := func() {
		applied = q.compose(want)
		var more dataplane.Result
		more, err = q.dataplane.Apply(ctx, applied)
		result = result.Append(more)
		q.note(applied, more)
	}
	q.note(applied, result)
	if result.InPlace && q.retry(ctx, now, want, portions) {
		again()
	}
	for n := 0; n < writesAfterRefusal && errors.Is(err, gateway.ErrRefused) && (q.blame(ctx, now, want) || q.leaveOut()); n++ {
		again()
	}
	return applied, result, err
}

// note remembers what is in effect.
func (q *Quarantine) note(applied gateway.State, result dataplane.Result) {
	if result.InPlace {
		q.last = &applied
	}
}

// Refusals says what is set aside, sorted by owner and family.
func (q *Quarantine) Refusals() []Refusal {
	var all []Refusal
	for p, r := range q.aside {
		all = append(all, Refusal{Owner: p.owner, Family: p.family, Why: r.why, Suspected: r.suspected})
	}
	slices.SortFunc(all, func(a, b Refusal) int {
		return cmp.Or(strings.Compare(a.Owner, b.Owner), cmp.Compare(a.Family, b.Family))
	})
	return all
}

// Due is when the next Apply tries again what is set aside; it is zero where nothing is.
func (q *Quarantine) Due() time.Time {
	var first time.Time
	for _, r := range q.aside {
		if first.IsZero() || r.due.Before(first) {
			first = r.due
		}
	}
	return first
}

// review forgets what nobody asks for any more, and sees to it that what is asked for otherwise is tried soon. It returns what
// is asked for of that which is set aside.
func (q *Quarantine) review(want gateway.State) map[part]portion {
	if len(q.aside) == 0 {
		return nil
	}
	portions := portionsOf(want, func(p part) bool { return q.aside[p] != nil })
	shared := without(want)
	for p, r := range q.aside {
		wanted, found := portions[p]
		if !found {
			delete(q.aside, p)
			continue
		}
		if early := r.tried.Add(soon); early.Before(r.due) && (!reflect.DeepEqual(wanted, r.wanted) || !reflect.DeepEqual(shared, r.shared)) {
			r.due, r.delay = early, 0
		}
	}
	return portions
}

// retry tries what is set aside and due, and reports whether it did: then another Apply has to follow.
func (q *Quarantine) retry(ctx context.Context, now time.Time, want gateway.State, portions map[part]portion) bool {
	// Those of whom it is not known are not to wait again for those of whom it is.
	var suspected, sure []part
	for p, r := range q.aside {
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
			if q.aside[p].again(now, portions[p], without(want), s, p); !s.holds(p) {
				delete(q.aside, p)
			}
		}
		tried = true
	}
	return tried
}

// again takes what came of another try.
func (r *refusal) again(now time.Time, wanted portion, shared gateway.State, s *search, p part) {
	r.tried, r.wanted, r.shared = now, wanted, shared
	r.delay = min(max(2*r.delay, minDelay), maxDelay)
	why, refused := s.refused[p]
	if !refused || s.suspected[p] {
		r.delay = minDelay // nothing new is known
	} else {
		r.why, r.suspected = why, false
	}
	r.due = now.Add(r.delay)
}

// blame finds out whose part is refused and sets it aside. It returns false where nobody's is: then it is about what all
// share, about all together, or about something that passes.
func (q *Quarantine) blame(ctx context.Context, now time.Time, want gateway.State) bool {
	portions := portionsOf(want, func(p part) bool { return q.aside[p] == nil })
	var before map[part]portion
	if q.last != nil {
		before = portionsOf(*q.last, func(p part) bool { _, found := portions[p]; return found })
	}
	// What did not change was taken once.
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
			s.find(suspects)
		}
	}
	for p, why := range s.refused {
		q.aside[p] = &refusal{
			wanted: portions[p], before: before[p], shared: without(want), why: why, suspected: s.suspected[p],
			tried: now, due: now.Add(minDelay), delay: minDelay,
		}
	}
	return len(s.refused) > 0
}

// leaveOut takes away what was left in effect of what is set aside, and reports whether there was anything.
func (q *Quarantine) leaveOut() bool {
	left := 0
	for _, r := range q.aside {
		left += len(r.before.forwards) + len(r.before.egresses)
		r.before = portion{}
	}
	return left > 0
}

// portionsOf takes apart what a State says of some parts.
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

// without is what a State says of no Mapping.
func without(state gateway.State) gateway.State {
	state.Forwards, state.Egresses, state.Away = nil, nil, gateway.Away{}
	return state
}

// oneLine is what a program said, without its line breaks.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// search prepares one.
func (q *Quarantine) search(ctx context.Context, want gateway.State, portions map[part]portion) *search {
	return &search{
		left: maxTries, refused: map[part]string{}, suspected: map[part]bool{},
		ask: func(parts []part) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return q.dataplane.Try(ctx, only(want, parts, portions))
		},
	}
}

// only is the state without what others than the parts ask for.
func only(state gateway.State, parts []part, portions map[part]portion) gateway.State {
	state = without(state)
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

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// mutate returns a report that differs from f in one respect, and shares everything else with it.
func mutate(random *rand.Rand, f finding.Report) finding.Report {
	name := fmt.Sprint("m", random.IntN(6))
	f.Err = nil
	switch random.IntN(6) {
	case 0: // another version of a Mapping, a new one, or one less
		f.Snapshot.Mappings = slices.Clone(f.Snapshot.Mappings)
		i := random.IntN(len(f.Snapshot.Mappings))
		m := f.Snapshot.Mappings[i].DeepCopy()
		m.Generation++
		m.Spec.Addresses = [][]string{{"192.0.2.1"}, {"192.0.2.9"}, nil}[random.IntN(3)]
		f.Snapshot.Mappings[i] = m
		if random.IntN(2) == 0 && len(f.Snapshot.Mappings) > 1 {
			f.Snapshot.Mappings = slices.Delete(f.Snapshot.Mappings, i, i+1)
		} else if m := facts(map[string][]string{name: {"192.0.2.1"}}).Snapshot.Mappings[0]; random.IntN(2) == 0 {
			f.Snapshot.Mappings = slices.DeleteFunc(f.Snapshot.Mappings, func(o *v1alpha1.Mapping) bool { return o.Name == name })
			f.Snapshot.Mappings = append(f.Snapshot.Mappings, m)
		}
	case 1:
		f.Findings = slices.Clone(f.Findings)
		if n := len(f.Findings); n > 0 && random.IntN(2) == 0 {
			f.Findings = slices.Delete(f.Findings, n-1, n)
		} else {
			f.Findings = append(f.Findings, finding.Finding{Namespace: "shop", Name: name, Reason: finding.ReasonPortReserved, Field: "spec", Message: fmt.Sprint(n)})
		}
	case 2:
		f.State.Forwards = slices.Clone(f.State.Forwards)
		port := uint16(1 + random.IntN(8))
		f.State.Forwards = slices.DeleteFunc(f.State.Forwards, func(o *gateway.Forward) bool { return o.Ports.First == port })
		if random.IntN(4) > 0 {
			f.State.Forwards = append(f.State.Forwards, &gateway.Forward{
				Owner: "shop/" + name, Direct: true, Backends: make([]gateway.Backend, random.IntN(4)),
				Frontend: gateway.Frontend{Address: netip.MustParseAddr("192.0.2.1"), Protocol: gateway.TCP, Ports: gateway.Port(port)},
			})
			slices.SortFunc(f.State.Forwards, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
		}
	case 3:
		f.Host.Links = facts(nil).Host.Links[:random.IntN(2)]
	case 4:
		f.Resolved = map[key]finding.Resolved{{Namespace: "shop", Name: name}: {Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5")}}}
	default:
		f.Err = errors.New("locked")
	}
	return f
}

// TestDigestOfChanges compares the entries after random changes with those of the last report alone, and what is queued with the
// entries that differ from the written ones.
func TestDigestOfChanges(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	few, all := 0, 0
	for walk := range 40 {
		f := facts(map[string][]string{"m0": {"192.0.2.1"}, "m1": {"192.0.2.1"}, "m2": nil})
		r := New(Options{Instance: "gw1"})
		r.have, r.known = map[key]Entry{}, true
		now := time.Unix(1700000000, 0)
		for step := range 60 {
			if f = mutate(random, f); f.Err != nil {
				now = now.Add(2 * failureGrace) // show failures at once
			}
			if _, ok := changed(r.last, &f); ok {
				few++
			} else {
				all++
			}
			r.Report(f)
			if !r.digest(now) {
				t.Fatal("no report")
			}
			if f.Err != nil {
				continue
			}
			if diff := cmp.Diff(entries("gw1", nil, f), r.wanted); diff != "" {
				t.Fatalf("walk %d, step %d (-want +got):\n%s", walk, step, diff)
			}
			queued := map[key]bool{}
			for r.queue.Len() > 0 {
				k, _ := r.queue.Get()
				queued[k] = true
				r.queue.Done(k)
			}
			for k, e := range r.wanted {
				if have, there := r.have[k]; !there && !queued[k] {
					t.Fatalf("walk %d, step %d: %s is not queued", walk, step, k)
				} else if have.Endpoints = e.Endpoints; there && !have.equal(e) && !queued[k] {
					t.Fatalf("walk %d, step %d: the change of %s is not queued", walk, step, k)
				}
				r.have[k] = e
			}
			for k := range r.have {
				if _, wanted := r.wanted[k]; !wanted {
					if !queued[k] {
						t.Fatalf("walk %d, step %d: the removal of %s is not queued", walk, step, k)
					}
					delete(r.have, k)
				}
			}
		}
	}
	if few < 200 || all < 200 {
		t.Errorf("%d changes of few and %d of all Mappings, too few for a meaningful test", few, all)
	}
}

// TestDigestOfOneChange checks that the garbage of a change does not grow with the number of Mappings.
func TestDigestOfOneChange(t *testing.T) {
	garbage := func(mappings int) float64 {
		f := manyForwards(mappings)
		other := f
		other.State.Forwards = slices.Clone(f.State.Forwards)
		less := *f.State.Forwards[5]
		less.Backends = less.Backends[1:]
		other.State.Forwards[5] = &less
		r := New(Options{Instance: "gw1"})
		r.have, r.known = entries("gw1", nil, f), true
		n := 0
		return testing.AllocsPerRun(100, func() {
			r.Report([]finding.Report{f, other}[n%2])
			r.digest(time.Now())
			n++
		})
	}
	const noise = 5 // other goroutines allocate too
	if few, many := garbage(10), garbage(1000); many > few+noise {
		t.Errorf("%.0f allocations for one of 10 Mappings, %.0f for one of 1,000", few, many)
	}
}

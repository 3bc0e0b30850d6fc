// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conflicts

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestOwners takes random ports and ranges and compares the result with a list of owners per port.
func TestOwners(t *testing.T) {
	const last = 40 // few ports, so that conflicts are frequent
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		c, owners := Owners{}, [last + 1]*v1alpha1.Mapping{}
		for n := range 30 {
			first := uint16(1 + random.IntN(last))
			wanted := Ports{
				Address: netip.MustParseAddr("198.51.100.10"), Protocol: v1alpha1.ProtocolTCP,
				First: first, Last: min(last, first+uint16(random.IntN(3)*random.IntN(4))),
			}
			m := &v1alpha1.Mapping{}
			m.Name = strconv.Itoa(n)
			share := c.Take(wanted, m)
			var lost, free []string
			for port := wanted.First; port <= wanted.Last; port++ {
				if owner := owners[port]; owner != nil {
					lost = append(lost, fmt.Sprintf("%d has %s", port, owner.Name))
					continue
				}
				owners[port] = m
				free = append(free, fmt.Sprint(port))
			}
			if len(lost) == 0 {
				free = nil
			}
			if diff := cmp.Diff(lost, each(share)); diff != "" {
				t.Fatalf("%s lost (-want +got):\n%s", wanted, diff)
			}
			var got []string
			for _, p := range share.Free {
				for port := p.First; port <= p.Last; port++ {
					got = append(got, fmt.Sprint(port))
				}
			}
			if diff := cmp.Diff(free, got); diff != "" {
				t.Fatalf("%s has of it (-want +got):\n%s", wanted, diff)
			}
		}
	}
}

// each returns the lost ports one by one.
func each(s Allocation) []string {
	var ports []string
	for i, c := range s.Lost {
		if i > 0 && s.Lost[i-1].Winner == c.Winner && s.Lost[i-1].Last+1 == c.First {
			ports = append(ports, "two runs that are one")
		}
		for port := c.First; port <= c.Last; port++ {
			ports = append(ports, fmt.Sprintf("%d has %s", port, c.Winner.Name))
		}
	}
	return ports
}

// TestManyConflictsAreCounted takes every second port first: the first losses are listed, the others counted, and all
// other ports assigned.
func TestManyConflictsAreCounted(t *testing.T) {
	c, old, young := Owners{}, &v1alpha1.Mapping{}, &v1alpha1.Mapping{}
	at := Ports{Address: netip.MustParseAddr("198.51.100.10"), Protocol: v1alpha1.ProtocolTCP}
	for port := uint16(2); port <= 1000; port += 2 {
		if !c.Take(at.part(port, port), old).Whole() {
			t.Fatalf("port %d was taken", port)
		}
	}
	share := c.Take(at.part(1, 1001), young)
	if len(share.Lost) != MaxConflicts || share.More != 500-MaxConflicts || len(share.Free) != 501 {
		t.Errorf("%d lost, %d more, %d free; want %d, %d, 501", len(share.Lost), share.More, len(share.Free), MaxConflicts, 500-MaxConflicts)
	}
	if again := c.Take(at.part(1, 1001), &v1alpha1.Mapping{}); len(again.Free) != 0 || again.More != 1001-MaxConflicts {
		t.Errorf("the next one has %v of it and lost %d more", again.Free, again.More)
	}
}

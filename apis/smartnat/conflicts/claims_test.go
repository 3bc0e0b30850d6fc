// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conflicts

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestClaims takes ports and ranges at random, beside a list that has an owner for each port.
func TestClaims(t *testing.T) {
	const last = 40 // few ports, so that most of them are wanted often
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		c, owners := Claims{}, [last + 1]*v1alpha1.Mapping{}
		for n := range 30 {
			first := uint16(1 + random.IntN(last))
			wanted := Ports{
				Address: netip.MustParseAddr("198.51.100.10"), Protocol: v1alpha1.ProtocolTCP,
				First: first, Last: min(last, first+uint16(random.IntN(3)*random.IntN(4))),
			}
			m := &v1alpha1.Mapping{}
			m.Name = strconv.Itoa(n)
			winner := c.Take(wanted, m)
			has := map[*v1alpha1.Mapping]bool{}
			for port := wanted.First; port <= wanted.Last; port++ {
				if owner := owners[port]; owner != nil {
					has[owner] = true
				}
			}
			if (winner == nil) != (len(has) == 0) || winner != nil && !has[winner] {
				t.Fatalf("%s: the winner is %v, want one of %v", wanted, winner, has)
			}
			for port := wanted.First; winner == nil && port <= wanted.Last; port++ {
				owners[port] = m
			}
		}
	}
}

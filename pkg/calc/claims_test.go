// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestClaims takes ports and ranges at random, beside a list that has an owner for each port.
func TestClaims(t *testing.T) {
	const last = 40 // few ports, so that most of them are wanted often
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		c, owners := claims{}, [last + 1]*entry{}
		for n := range 30 {
			first := uint16(1 + random.IntN(last))
			wanted := gateway.PortRange{First: first, Last: min(last, first+uint16(random.IntN(3)*random.IntN(4)))}
			m := &entry{mapping: &v1alpha1.Mapping{}}
			m.mapping.Name = strconv.Itoa(n)
			winner := c.take(gateway.Frontend{Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: wanted}, m)
			has := map[*entry]bool{}
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

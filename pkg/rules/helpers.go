// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// helpersChain assigns helpers. Its table exists only where there is something to assign, as each packet passes it.
const helpersChain = "HELPERS"

// helpers returns the table that has the kernel's helpers read connections to ports of Mappings and to no others, or none. A
// helper opens ports by what it reads, so no other program's connection gets one.
func (b *builder) helpers() []netfilter.Table {
	var rules []netfilter.Rule
	for _, f := range b.forwards {
		for _, h := range b.state.Helpers {
			if f.Protocol == h.Protocol && f.Ports.Contains(h.Port) && len(f.Backends) > 0 {
				rules = append(rules, netfilter.Rule{
					Destination: only(f.Address), Protocol: h.Protocol, DestinationPorts: gateway.Port(h.Port), Comment: netfilter.Comment(f.Owner),
					Target: netfilter.Target{Verb: netfilter.AssignHelper, Helper: h.Name},
				})
			}
		}
	}
	if len(rules) == 0 {
		return nil
	}
	return []netfilter.Table{b.table("raw", func() {
		b.hook("PREROUTING", helpersChain)
		b.chain(helpersChain, rules...)
	})}
}

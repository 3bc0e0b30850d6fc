// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// helpersChain assigns helpers. Its table exists only if there is a helper to assign, because every packet passes the table.
const helpersChain = "HELPERS"

// helpers returns the table that assigns the kernel's helpers to connections to ports of Mappings, or nothing. A helper opens
// ports according to the content of a connection, so connections of other programs get none.
func (b *builder) helpers() []ruleset.Table {
	var rules []ruleset.Rule
	for _, f := range b.forwards {
		for _, h := range b.state.Helpers {
			if f.Protocol == h.Protocol && f.Ports.Contains(h.Port) && len(f.Backends) > 0 {
				rules = append(rules, ruleset.Rule{
					Destination: hostPrefix(f.Address), Protocol: h.Protocol, DestinationPorts: gateway.Port(h.Port), Comment: ruleset.Comment(f.Owner),
					Target: ruleset.Target{Verb: ruleset.AssignHelper, Helper: h.Name},
				})
			}
		}
	}
	if len(rules) == 0 {
		return nil
	}
	return []ruleset.Table{b.table("raw", func() {
		b.hook("PREROUTING", helpersChain)
		b.chain(helpersChain, rules...)
	})}
}

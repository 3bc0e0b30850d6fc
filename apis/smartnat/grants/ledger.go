// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants

import "fmt"

// Ledger counts the ports that namespaces use by Grants with a limit. Requests come in the order in which they may take ports.
type Ledger map[account]int

type account struct{ noun, namespace string }

// Take counts n ports of a Grant, or returns why the Grant has no room for them. A nil Grant has no limit.
func (l Ledger) Take(g *Grant, namespace string, n int) string {
	if g == nil || g.MaxPorts == 0 {
		return ""
	}
	key := account{g.noun, namespace}
	if now := l[key] + n; now > g.MaxPorts {
		return fmt.Sprintf("with it, namespace %s would use %d ports of %s, which gives it %d (maxPorts); older Mappings come first",
			namespace, now, g.noun, g.MaxPorts)
	}
	l[key] += n
	return ""
}

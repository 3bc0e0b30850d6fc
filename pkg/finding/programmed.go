// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package finding

import "github.com/smartnat/smartnat/pkg/gateway"

// Programmed returns the Mappings with a Forward in the state, as namespace/name.
func Programmed(state gateway.State) map[string]struct{} {
	programmed, last := map[string]struct{}{}, "" // adjacent Forwards mostly share an owner
	for _, f := range state.Forwards {
		if f.Owner != last {
			programmed[f.Owner], last = struct{}{}, f.Owner
		}
	}
	return programmed
}

// CountReady counts the programmed Mappings without a finding that blocks their connections.
func CountReady(programmed map[string]struct{}, findings []Finding) int {
	blocked := map[string]struct{}{}
	for i := range findings {
		if f := &findings[i]; f.Blocks() {
			owner := f.Namespace + "/" + f.Name
			if _, ok := programmed[owner]; ok {
				blocked[owner] = struct{}{}
			}
		}
	}
	return len(programmed) - len(blocked)
}

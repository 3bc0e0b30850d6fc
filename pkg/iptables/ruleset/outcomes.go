// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"iter"
	"slices"

	"github.com/smartnat/smartnat/pkg/packet"
)

// Outcomes implements packet.Tracer. It makes all random choices itself, and asks no Choosing.
func (t *Tracer) Outcomes(p packet.Packet) iter.Seq[packet.Trace] {
	return func(yield func(packet.Trace) bool) {
		// Each script lists the outcomes of random matches in order. Matches beyond its end fail.
		scripts := [][]bool{nil}
		for len(scripts) > 0 {
			script := scripts[len(scripts)-1]
			scripts = scripts[:len(scripts)-1]
			asked := 0
			trace := t.Choosing(func(uint32) bool {
				matches := false
				if asked < len(script) {
					matches = script[asked]
				} else {
					scripts = append(scripts, append(slices.Concat(script, make([]bool, asked-len(script))), true))
				}
				asked++
				return matches
			}).Trace(p)
			if !yield(trace) {
				return
			}
		}
	}
}

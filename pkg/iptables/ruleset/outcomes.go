// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"iter"
	"slices"
)

// Outcomes yields the traces of a packet for all outcomes of random matches, each with its probability. It ignores the packet's
// own Chance.
func (t *Tracer) Outcomes(p Packet) iter.Seq2[Trace, float64] {
	return func(yield func(Trace, float64) bool) {
		// Each script lists the outcomes of random matches in order. Matches beyond its end fail.
		scripts := [][]bool{nil}
		for len(scripts) > 0 {
			script := scripts[len(scripts)-1]
			scripts = scripts[:len(scripts)-1]
			asked, probability := 0, 1.0
			p.Chance = func(share uint32) bool {
				matches, chance := false, float64(share)/ProbabilityOne
				if asked < len(script) {
					matches = script[asked]
				} else {
					scripts = append(scripts, append(slices.Concat(script, make([]bool, asked-len(script))), true))
				}
				if !matches {
					chance = 1 - chance
				}
				probability *= chance
				asked++
				return matches
			}
			if !yield(t.Trace(p), probability) {
				return
			}
		}
	}
}

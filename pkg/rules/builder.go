// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// Builder builds the rules of one family again and again as the State changes, and at the cost of what changed. It is not safe
// for several goroutines.
type Builder struct {
	family netfilter.Family
	opts   Options
}

// NewBuilder returns a Builder that has built nothing yet.
func NewBuilder(family netfilter.Family, opts Options) *Builder {
	return &Builder{family: family, opts: opts}
}

// Build returns what the function Build would. It shares the rules of chains that did not change with what it returned before:
// neither must be changed, nor the State.
func (b *Builder) Build(state gateway.State) netfilter.Ruleset {
	return Build(state, b.family, b.opts)
}

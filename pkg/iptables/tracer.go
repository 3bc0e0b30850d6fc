// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"fmt"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Tracer implements dataplane.Ruleset. The rules of other programs count as rules that do not match.
func (r *Ruleset) Tracer(ctx context.Context, name gateway.Family) (packet.Tracer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	return ruleset.NewTracer(have), nil
}

// observe returns the tables of a family and all sets, and remembers nothing.
func (r *Ruleset) observe(ctx context.Context, name gateway.Family) (ruleset.Ruleset, error) {
	have, err := r.opts.Program.Save(ctx, name)
	if err != nil {
		return ruleset.Ruleset{}, fmt.Errorf("reading the IPv%d tables: %w", name, err)
	}
	if r.opts.Sets != nil {
		if have.Sets, err = r.opts.Sets.Observe(); err != nil {
			return ruleset.Ruleset{}, fmt.Errorf("reading the sets: %w", err)
		}
	}
	return have, nil
}

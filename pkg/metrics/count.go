// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
	"github.com/smartnat/smartnat/pkg/source"
)

// Program wraps of and counts each Restore.
func (m *Metrics) Program(of iptables.Program) iptables.Program {
	for _, family := range of.Families() {
		for _, result := range []string{success, failure} {
			m.restores.WithLabelValues(familyLabel(family), result)
		}
	}
	return program{of, m}
}

type program struct {
	iptables.Program
	m *Metrics
}

func (p program) Restore(ctx context.Context, batch ruleset.Batch) error {
	started := time.Now()
	err := p.Program.Restore(ctx, batch)
	p.m.restoreDuration.Observe(time.Since(started).Seconds())
	p.m.restores.WithLabelValues(familyLabel(batch.Family), resultOf(err)).Inc()
	return err
}

// Memory wraps of and counts each Save.
func (m *Metrics) Memory(of source.Memory) source.Memory { return memory{of, m} }

type memory struct {
	source.Memory
	m *Metrics
}

func (c memory) Save(saved snapshotfile.Saved) error {
	err := c.Memory.Save(saved)
	c.m.snapshotWrites.WithLabelValues(resultOf(err)).Inc()
	return err
}

func familyLabel(family gateway.Family) string { return fmt.Sprintf("ipv%d", family) }

func resultOf(err error) string {
	if err != nil {
		return failure
	}
	return success
}

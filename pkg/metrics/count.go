// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
	"github.com/smartnat/smartnat/pkg/source"
)

// IPTables wraps of and counts each Restore.
func (m *Metrics) IPTables(of dataplane.IPTables) dataplane.IPTables {
	for _, family := range of.Families() {
		for _, result := range []string{success, failure} {
			m.restores.WithLabelValues(familyLabel(family), result)
		}
	}
	return tables{of, m}
}

type tables struct {
	dataplane.IPTables
	m *Metrics
}

func (t tables) Restore(ctx context.Context, batch ruleset.Batch) error {
	started := time.Now()
	err := t.IPTables.Restore(ctx, batch)
	t.m.restoreDuration.Observe(time.Since(started).Seconds())
	t.m.restores.WithLabelValues(familyLabel(batch.Family), resultOf(err)).Inc()
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

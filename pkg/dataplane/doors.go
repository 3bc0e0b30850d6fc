// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// IPTables reads and writes the netfilter tables. If the program of a Save or Restore hangs and is killed, the error matches
// context.DeadlineExceeded.
type IPTables interface {
	// Families returns the families that can be programmed.
	Families() []gateway.Family
	Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error)
	// Restore executes the batch. After an error, some of its tables may be written. The error is gateway.ErrRefused if the
	// kernel or the program refuses a line of the batch.
	Restore(ctx context.Context, batch ruleset.Batch) error
	// Watch calls changed once at the start and then whenever rules may have been written, by any process including this one. It
	// returns nil when ctx ends, and an error if it can no longer watch.
	Watch(ctx context.Context, changed func()) error
	// Stamp is cheap and returns another number after rules of the family were written. It may miss a change. Digest costs more
	// and misses none.
	Stamp(family gateway.Family) (uint64, error)
	Digest(family gateway.Family) (uint64, error)
	// Alone reports whether a Restore of this number of tables was certainly the only write between two Stamps. If Alone can be
	// true, a Stamp is also a Digest.
	Alone(before, after uint64, tables int) bool
}

// Sets reads and writes sets of networks.
type Sets interface {
	// Observe returns our sets with their members, sorted by name.
	Observe() ([]ruleset.Set, error)
	// Stamp returns another number after a set of ours was created or destroyed, or changed its number of members.
	Stamp() (uint64, error)
	// Put creates the set, or replaces its members atomically.
	Put(set ruleset.Set) error
	// Change adds members and removes others.
	Change(set ruleset.Set, add, remove []netip.Prefix) error
	// Destroy removes a set that no rule names any more.
	Destroy(name string) error
}

// Routes reads and writes routes and policy routing rules.
type Routes interface {
	// Observe returns our routes and rules.
	Observe() (policyrouting.Set, error)
	// Apply executes the changes as far as it can, and returns those that it executed.
	Apply(changes policyrouting.Changes) (policyrouting.Changes, error)
}

// Conntrack ends connections that the kernel still translates by the rules of their first packet.
type Conntrack interface {
	// Cut ends our connections that the state does not make, and returns their number. All connections matched the state since;
	// nil means unknown.
	Cut(ctx context.Context, since *gateway.State, state gateway.State) (int, error)
	// Owes reports whether the ending of connections was postponed and is due now.
	Owes() bool
}

// Sysctls reads and writes kernel parameters.
type Sysctls interface {
	// List returns the parameters that match a pattern of path.Match.
	List(pattern string) ([]string, error)
	// Get returns fs.ErrNotExist if the parameter does not exist.
	Get(key string) (string, error)
	Set(key, value string) error
	// Restore undoes all calls of Set, except for the parameters in keep, and returns the parameters that it changed.
	Restore(keep ...string) ([]string, error)
}

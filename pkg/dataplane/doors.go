// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// IPTables reads and writes the tables of netfilter. Where a Save or a Restore is given up because its program hangs, the error
// is context.DeadlineExceeded.
type IPTables interface {
	// Families are those that can be programmed.
	Families() []netfilter.Family
	Save(ctx context.Context, family netfilter.Family) (netfilter.Ruleset, error)
	// Restore carries out the batch; after an error some of its tables may be done. The error is gateway.ErrRefused where a
	// table is not taken for what it says.
	Restore(ctx context.Context, batch netfilter.Batch) error
	// Watch calls changed once it watches, and then whenever rules may have been written, by whomever, until ctx ends, which
	// is no error, or it can watch no longer.
	Watch(ctx context.Context, changed func()) error
	// Stamp is another number once somebody has written rules of the family, and costs next to nothing. It may overlook a
	// change now and then; Digest, which costs more, does not.
	Stamp(family netfilter.Family) (uint64, error)
	Digest(family netfilter.Family) (uint64, error)
	// Alone reports whether a Restore of as many tables is for sure all that was written between two Stamps. Where it can be
	// true, a Stamp is a Digest too.
	Alone(before, after uint64, tables int) bool
}

// Sets reads and writes sets of networks.
type Sets interface {
	// Observe returns those that are ours, whole and sorted by name.
	Observe() ([]netfilter.Set, error)
	// Stamp is another number once there are other sets of ours, or one of them has more members or less.
	Stamp() (uint64, error)
	// Put creates the set, or gives it these members in place of those that it has, all at once.
	Put(set netfilter.Set) error
	// Change adds members and removes others.
	Change(set netfilter.Set, add, remove []netip.Prefix) error
	// Destroy removes a set that no rule names any more.
	Destroy(name string) error
}

// Routes reads and writes routes and rules of policy routing.
type Routes interface {
	// Observe returns what is ours.
	Observe() (policyrouting.Set, error)
	// Apply carries out what it can of the changes and returns that.
	Apply(changes policyrouting.Changes) (policyrouting.Changes, error)
}

// Conntrack knows the connections that the kernel translates by what it remembers of their beginning.
type Conntrack interface {
	// Cut ends those of ours that the state does not make, and returns how many. They are known to have been right for the
	// state since; where that is nil, nobody knows.
	Cut(ctx context.Context, since *gateway.State, state gateway.State) (int, error)
	// Owes reports whether Cut has put off something that is due now.
	Owes() bool
}

// Sysctls reads and writes kernel parameters.
type Sysctls interface {
	// List returns the parameters that match a pattern as path.Match has it.
	List(pattern string) ([]string, error)
	// Get's error is fs.ErrNotExist where there is no such parameter.
	Get(key string) (string, error)
	Set(key, value string) error
	// Restore puts back what was there before Set, but for the parameters in keep, and returns those that it changed.
	Restore(keep ...string) ([]string, error)
}

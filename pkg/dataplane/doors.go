// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Ruleset programs the packet rules of a State by one kernel API. All methods that write return what they wrote, also together
// with an error. An error is gateway.ErrRefused if the kernel refuses something in the rules themselves.
type Ruleset interface {
	// Families returns the families that can be programmed, IPv4 first.
	Families() []gateway.Family
	// Apply brings the rules of one family to the state. It keeps until Prune what rules of the other family, or Leftovers, may
	// still need.
	Apply(ctx context.Context, family gateway.Family, state gateway.State) (Changes, error)
	// Prune removes what no rule needs any more, once Apply has succeeded for every family.
	Prune(ctx context.Context) (Changes, error)
	// Guard writes the boundary that the state requires and removes nothing: it serves the time before the first Apply.
	Guard(ctx context.Context, family gateway.Family, state gateway.State) (Changes, error)
	// Remove removes all our rules of a family, whichever process wrote them.
	Remove(ctx context.Context, family gateway.Family) (Changes, error)
	// Plan returns what an Apply and a Prune would write, and how the kernel differs. It only reads.
	Plan(ctx context.Context, family gateway.Family, state gateway.State) (Plan, error)
	// Tracer returns a model of what the rules that are now in the kernel do to packets. It only reads.
	Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error)
	// Try returns an error if the kernel refuses rules of the state. It does not affect packets.
	Try(ctx context.Context, state gateway.State) error
	// Drift looks for writes by other processes, at a cost that does not depend on the number of rules. It reports whether the
	// next Apply has work to do because of them.
	Drift() (bool, error)
	// Verify makes the next Apply prove that the kernel still holds everything that was written.
	Verify()
	// Watch calls changed whenever a Drift is due. It returns nil when ctx ends, and an error if it can no longer watch.
	Watch(ctx context.Context, changed func()) error
}

// Leftovers are rules of ours in a kernel API that is not in use any more.
type Leftovers interface {
	// Remove removes them all. Our rules must be in place already, because it also removes a boundary.
	Remove(ctx context.Context) (Changes, error)
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
	// EndStale ends our connections that the state does not make, and returns their number. All connections matched the state since;
	// nil means unknown.
	EndStale(ctx context.Context, since *gateway.State, state gateway.State) (int, error)
	// Pending reports whether a deferred EndStale is due.
	Pending() bool
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

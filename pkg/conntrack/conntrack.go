// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// maxDelay is the longest delay until harmless stale connections end. Finding them takes a walk over the kernel's table, which is
// most of the cost of adding or removing an endpoint. The caller asks Pending every three seconds.
const maxDelay = 3 * time.Second

// maxDeferred bounds the number of remembered scopes.
const maxDeferred = 64

// Client reads and ends connections. It keeps no socket between calls, and is not safe for concurrent use.
type Client struct {
	own gateway.Ownership
	// lastCheck is the time of the last check. deferred holds the scopes that were deferred since.
	lastCheck time.Time
	deferred  []scope
}

// New returns a Client for the connections that carry own's mark.
func New(own gateway.Ownership) *Client { return &Client{own: own} }

// Pending reports whether a deferred check is due, so that the next EndStale does something even if the state is unchanged.
func (c *Client) Pending() bool { return len(c.deferred) > 0 && time.Since(c.lastCheck) >= maxDelay }

// EndStale ends the connections that the state does not make, and returns their number. Call it after the rules are in place,
// because they decide about the next packet. All connections matched the state since, so EndStale checks only those that the
// difference affects. If since is nil, it checks all. A failure to end one connection does not stop the others.
//
// EndStale defers TCP connections to removed backends if it checked a moment ago. Pending reports whether they are due.
func (c *Client) EndStale(ctx context.Context, since *gateway.State, state gateway.State) (int, error) {
	changed := c.take(changedSince(since, state), time.Now())
	if len(changed.stale)+len(changed.missed)+len(changed.leaving) == 0 {
		return 0, nil
	}
	ours, most := c.own.Forwarded(), worthwhile()
	var queries []query
	for _, s := range atMost(most, changed.stale) {
		queries = append(queries, query{mark: ours, scope: s})
	}
	for _, s := range atMost(most, changed.missed) {
		queries = append(queries, query{mark: gateway.Mark{Mask: ours.Mask}, scope: s})
	}
	for _, s := range changed.leaving {
		queries = append(queries, query{mark: gateway.Mark{Mask: ours.Mask}, without: conntrack.StatusSeenReply, scope: s})
	}
	flows, err := newJudge(state).staleFlows(ours, queries)
	if err != nil {
		err = fmt.Errorf("reading connections: %w", err)
	}
	ended, endErr := end(ctx, flows)
	return ended, errors.Join(err, endErr)
}

// take returns the scopes to check now, including deferred ones, or nothing if all of them can wait.
func (c *Client) take(changed changes, now time.Time) changes {
	for _, s := range c.deferred {
		if !slices.Contains(changed.stale, s) {
			changed.stale = append(changed.stale, s)
		}
	}
	if !changed.urgent && now.Sub(c.lastCheck) < maxDelay {
		c.deferred = atMost(maxDeferred, changed.stale)
		return changes{}
	}
	c.deferred = nil
	if len(changed.stale)+len(changed.missed)+len(changed.leaving) > 0 {
		c.lastCheck = now
	}
	return changed
}

// staleFlows returns the connections that must end, among those that match the queries.
func (j judge) staleFlows(ours gateway.Mark, queries []query) ([]conntrack.Flow, error) {
	conn, err := netfilter.Dial(nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var staleFlows []conntrack.Flow
	var errs []error
	for _, q := range queries {
		flows, err := q.run(conn)
		errs = append(errs, err)
		for _, f := range flows {
			// Compare again, because an older kernel does not filter.
			stale := f.Mark&ours.Mask == ours.Value && !j.keeps(toFlow(f))
			missed := f.Mark&ours.Mask == 0 && j.takesOver(toFlow(f))
			if stale || missed {
				staleFlows = append(staleFlows, f)
			}
		}
	}
	return staleFlows, errors.Join(errs...)
}

// end deletes connections one by one.
func end(ctx context.Context, flows []conntrack.Flow) (int, error) {
	if len(flows) == 0 {
		return 0, nil
	}
	conn, err := conntrack.Dial(nil)
	if err != nil {
		return 0, fmt.Errorf("opening a netlink socket to conntrack: %w", err)
	}
	defer conn.Close()
	ended, failed := 0, 0
	var first error
	for _, f := range flows {
		if err := ctx.Err(); err != nil {
			return ended, err
		}
		// The kernel uses the first tuple. The library reads the family from both.
		err := conn.Delete(conntrack.Flow{TupleOrig: f.TupleOrig, TupleReply: f.TupleReply, Zone: f.Zone})
		switch {
		case err == nil:
			ended++
		case errors.Is(err, unix.ENOENT): // It ended by itself.
		default:
			if failed++; first == nil {
				first = fmt.Errorf("ending the connection %v: %w", f.TupleOrig, err)
			}
		}
	}
	if failed > 1 {
		first = fmt.Errorf("%w (and %d more)", first, failed-1)
	}
	return ended, first
}

var protocols = map[uint8]gateway.Protocol{
	unix.IPPROTO_TCP: gateway.TCP, unix.IPPROTO_UDP: gateway.UDP, unix.IPPROTO_SCTP: gateway.SCTP,
}

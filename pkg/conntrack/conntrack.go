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

// patience is how long connections may be put off that do no harm. To look for them costs a walk over the kernel's table,
// most of what an endpoint that comes and goes costs where there are few ports.
const patience = time.Second

// maxOwed bounds what is remembered of those that were put off.
const maxOwed = 64

// Client reads and ends connections. It keeps no socket between calls, and is not safe for several goroutines.
type Client struct {
	own gateway.Ownership
	// looked is when connections were looked at last, owed where they were put off since.
	looked time.Time
	owed   []scope
}

// New returns a Client for the connections that carry own's mark.
func New(own gateway.Ownership) *Client { return &Client{own: own} }

// Owes reports whether the next Cut is going to look at connections that were put off, whatever the state.
func (c *Client) Owes() bool { return len(c.owed) > 0 && time.Since(c.looked) >= patience }

// Cut ends the connections that the state does not make, and returns how many those were. It is to be called once the rules
// are in place, as the next packet of a connection that was cut meets them. What is known to have been right since an
// earlier state, and is not touched by what differs, is not looked at; nil has everything looked at. What cannot be ended
// keeps nothing else from it.
//
// TCP to backends that went is looked at once in a while where they go all the time: Owes says when.
func (c *Client) Cut(ctx context.Context, since *gateway.State, state gateway.State) (int, error) {
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
	flows, err := newJudge(state).condemned(ours, queries)
	if err != nil {
		err = fmt.Errorf("reading connections: %w", err)
	}
	ended, endErr := end(ctx, flows)
	return ended, errors.Join(err, endErr)
}

// take returns what is to be looked at now: what changed and what was put off, or nothing where that can wait.
func (c *Client) take(changed changes, now time.Time) changes {
	for _, s := range c.owed {
		if !slices.Contains(changed.stale, s) {
			changed.stale = append(changed.stale, s)
		}
	}
	if !changed.urgent && now.Sub(c.looked) < patience {
		c.owed = atMost(maxOwed, changed.stale)
		return changes{}
	}
	c.owed = nil
	if len(changed.stale)+len(changed.missed)+len(changed.leaving) > 0 {
		c.looked = now
	}
	return changed
}

// condemned are those of the connections that the kernel finds that are to be ended.
func (j judge) condemned(ours gateway.Mark, queries []query) ([]conntrack.Flow, error) {
	conn, err := netfilter.Dial(nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var condemned []conntrack.Flow
	var errs []error
	for _, q := range queries {
		flows, err := q.run(conn)
		errs = append(errs, err)
		for _, f := range flows {
			// A kernel that does not filter leaves it to us.
			stale := f.Mark&ours.Mask == ours.Value && !j.keeps(toFlow(f))
			missed := f.Mark&ours.Mask == 0 && j.takesOver(toFlow(f))
			if stale || missed {
				condemned = append(condemned, f)
			}
		}
	}
	return condemned, errors.Join(errs...)
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
		// The kernel goes by the first tuple; the library finds the family in both.
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

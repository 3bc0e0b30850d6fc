// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Client reads and ends connections. It keeps no socket between calls.
type Client struct{ own gateway.Ownership }

// New returns a Client for the connections that carry own's mark.
func New(own gateway.Ownership) *Client { return &Client{own: own} }

// Cut ends the connections that the state does not make, and returns how many those were. It is to be called once the rules
// are in place, as the next packet of a connection that was cut meets them. What cannot be ended keeps nothing else from it.
func (c *Client) Cut(ctx context.Context, state gateway.State) (int, error) {
	conn, err := conntrack.Dial(nil)
	if err != nil {
		return 0, fmt.Errorf("opening a netlink socket to conntrack: %w", err)
	}
	defer conn.Close()

	judge := newJudge(state)
	stale, err := c.stale(conn, judge)
	if err != nil {
		return 0, fmt.Errorf("reading the connections that were forwarded: %w", err)
	}
	missed, err := c.missed(conn, judge)
	if err != nil {
		err = fmt.Errorf("reading the connections that nobody answered: %w", err)
	}
	cut, cutErr := end(ctx, conn, append(stale, missed...))
	return cut, errors.Join(err, cutErr)
}

// stale are the connections with our mark that the State does not make.
func (c *Client) stale(conn *conntrack.Conn, j judge) ([]conntrack.Flow, error) {
	ours := c.own.Forwarded()
	flows, err := conn.DumpFilter(conntrack.NewFilter().Mark(ours.Value).MarkMask(ours.Mask), nil)
	return slices.DeleteFunc(flows, func(f conntrack.Flow) bool {
		return f.Mark&ours.Mask != ours.Value || j.keeps(toFlow(f))
	}), err
}

// missed are the flows that a Forward of the State does not have only because they are older.
func (c *Client) missed(conn *conntrack.Conn, j judge) ([]conntrack.Flow, error) {
	if !slices.ContainsFunc(j.forwards, func(f gateway.Forward) bool { return f.Protocol == gateway.UDP }) {
		return nil, nil
	}
	ours := c.own.Forwarded().Mask
	answered := conntrack.StatusSeenReply
	filter := conntrack.NewFilter().Mark(0).MarkMask(ours).Status(0).StatusMask(uint32(answered))
	flows, err := conn.DumpFilter(filter, nil)
	return slices.DeleteFunc(flows, func(f conntrack.Flow) bool {
		// A kernel before 5.15 does not filter by status.
		return f.Mark&ours != 0 || f.Status&answered != 0 || !j.takesOver(toFlow(f))
	}), err
}

// end deletes connections one by one.
func end(ctx context.Context, conn *conntrack.Conn, flows []conntrack.Flow) (int, error) {
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

func toFlow(f conntrack.Flow) flow {
	return flow{
		protocol:    protocols[f.TupleOrig.Proto.Protocol],
		source:      netip.AddrPortFrom(f.TupleOrig.IP.SourceAddress, f.TupleOrig.Proto.SourcePort),
		destination: netip.AddrPortFrom(f.TupleOrig.IP.DestinationAddress, f.TupleOrig.Proto.DestinationPort),
		answeredBy:  netip.AddrPortFrom(f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort),
		answeredTo:  netip.AddrPortFrom(f.TupleReply.IP.DestinationAddress, f.TupleReply.Proto.DestinationPort),
		expected:    f.TupleMaster.Proto.Protocol != 0,
	}
}

var protocols = map[uint8]gateway.Protocol{
	unix.IPPROTO_TCP: gateway.TCP, unix.IPPROTO_UDP: gateway.UDP, unix.IPPROTO_SCTP: gateway.SCTP,
}

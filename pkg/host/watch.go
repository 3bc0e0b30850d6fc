// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// resubscribeDelay limits the CPU time that a repeatedly failing socket takes.
const resubscribeDelay = time.Second

// Watch calls changed once at the start. It then calls changed after each change of a link, an address, a route, a policy
// routing rule, forwarding or a reverse path filter, and when a next hop stops or starts to answer. It returns nil when ctx
// ends. Changes during a call cause one further call. After a quiet period, the call comes at once.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	events := make(chan struct{}, 1)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer close(events)
	calls.Go(func() {
		for range events {
			changed()
		}
	})
	notify := func() {
		select {
		case events <- struct{}{}:
		default: // The pending call covers this change too.
		}
	}
	// Run on this goroutine, so that a caller whose thread is in another network namespace watches that namespace.
	repeat(ctx, h.log, resubscribeDelay, func() error { return h.watch(ctx, notify) })
	return nil
}

// repeat restarts the watch whenever it fails, until ctx ends.
func repeat(ctx context.Context, log logrus.FieldLogger, delay time.Duration, watch func() error) {
	for {
		err := watch()
		if ctx.Err() != nil {
			return
		}
		log.WithError(err).Warn("lost watch on links, addresses and routes, retrying")
		sleep(ctx, delay)
	}
}

// watch notifies until the socket fails or ctx ends.
func (h *Host) watch(ctx context.Context, notify func()) error {
	groups := []uint{
		unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		// Forwarding and the reverse path filter.
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	}
	if h.neighbours.asks() {
		groups = append(groups, unix.RTNLGRP_NEIGH)
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return fmt.Errorf("subscribing to links, addresses, routes and parameters: %w", err)
	}
	// Earlier changes cause no event.
	notify()
	return h.receive(ctx, socket, notify)
}

func (h *Host) receive(ctx context.Context, socket *nl.NetlinkSocket, notify func()) error {
	stop := context.AfterFunc(ctx, socket.Close)
	defer func() {
		if stop() {
			socket.Close()
		}
	}()
	var next time.Time
	for {
		if h.neighbours.asks() {
			if !time.Now().Before(next) {
				next = time.Now().Add(h.probe(notify))
			}
			timeout := unix.NsecToTimeval(max(time.Until(next), time.Millisecond).Nanoseconds())
			if err := socket.SetReceiveTimeout(&timeout); err != nil {
				return fmt.Errorf("setting the receive timeout: %w", err)
			}
		}
		messages, _, err := socket.Receive()
		switch {
		case errors.Is(err, unix.EAGAIN): // The next hops are due.
		case err == nil && !h.concerns(messages):
		// ENOBUFS means that the socket lost events. It still works, and notify causes a complete reading anyway.
		case err == nil, errors.Is(err, unix.ENOBUFS):
			notify()
			next = time.Now().Add(min(time.Until(next), retryNeighbour)) // The route to a next hop may have changed.
		default:
			return fmt.Errorf("reading changes of links, addresses and routes: %w", err)
		}
	}
}

// concerns reports whether the messages contain more than foreign neighbours and unchanged ones.
func (h *Host) concerns(messages []syscall.NetlinkMessage) bool {
	changed := false
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWNEIGH:
			changed = h.neighbours.event(m.Data) || changed
		case unix.RTM_DELNEIGH:
		default:
			changed = true
		}
	}
	return changed
}

// probe probes the next hops and returns the time until the next probe.
func (h *Host) probe(notify func()) time.Duration {
	changed, next, err := h.neighbours.probe()
	if err != nil {
		h.log.WithError(err).Warn("cannot check next hops, retrying")
	}
	if changed {
		notify()
	}
	return next
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

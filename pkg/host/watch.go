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

// resubscribeDelay keeps a socket that fails again and again from costing a core.
const resubscribeDelay = time.Second

// Watch calls changed once it watches, and then when a link, an address, a route or a rule of policy routing came, went
// or changed, forwarding or a reverse path filter was set, or a next hop stopped answering or began to, until ctx ends, which
// is no error. Changes that arrive while changed runs are one call; a call after quiet comes at once.
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
		default: // A call that has not begun yet will see this change too.
		}
	}
	// On this goroutine, so that a caller whose thread is in another network namespace watches that one.
	repeat(ctx, h.log, resubscribeDelay, func() error { return h.watch(ctx, notify) })
	return nil
}

// repeat sets the watch up again whenever it breaks off, until ctx ends.
func repeat(ctx context.Context, log logrus.FieldLogger, delay time.Duration, watch func() error) {
	for {
		err := watch()
		if ctx.Err() != nil {
			return
		}
		log.WithError(err).Warn("The watch on links, addresses and routes broke off; it is set up again")
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
	if len(h.neighbours.nextHops) > 0 {
		groups = append(groups, unix.RTNLGRP_NEIGH)
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return fmt.Errorf("subscribing to links, addresses, routes and parameters: %w", err)
	}
	// What changed before is seen by looking.
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
		if len(h.neighbours.nextHops) > 0 {
			if !time.Now().Before(next) {
				next = time.Now().Add(h.probe(notify))
			}
			timeout := unix.NsecToTimeval(max(time.Until(next), time.Millisecond).Nanoseconds())
			if err := socket.SetReceiveTimeout(&timeout); err != nil {
				return fmt.Errorf("setting how long to wait for changes: %w", err)
			}
		}
		messages, _, err := socket.Receive()
		switch {
		case errors.Is(err, unix.EAGAIN): // It is time for the next hops.
		case err == nil && !h.concerns(messages):
		// ENOBUFS: more changes came at once than the socket holds, some are lost; the socket goes on, and whoever is
		// notified looks at everything.
		case err == nil, errors.Is(err, unix.ENOBUFS):
			notify()
			next = time.Now().Add(min(time.Until(next), retryNeighbour)) // The way to a next hop may be another one now.
		default:
			return fmt.Errorf("reading changes of links, addresses and routes: %w", err)
		}
	}
}

// concerns reports whether there is more in the messages than neighbours that are nothing to us, or are as they were.
func (h *Host) concerns(messages []syscall.NetlinkMessage) bool {
	news := false
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWNEIGH:
			news = h.neighbours.event(m.Data) || news
		case unix.RTM_DELNEIGH:
		default:
			news = true
		}
	}
	return news
}

// probe looks after the next hops, and returns when to do so again.
func (h *Host) probe(notify func()) time.Duration {
	news, next, err := h.neighbours.probe()
	if err != nil {
		h.log.WithError(err).Warn("Could not look after the next hops")
	}
	if news {
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

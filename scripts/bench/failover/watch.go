// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/scripts/lab"
)

// watch follows which boxes have the virtual addresses.
type watch struct {
	mu sync.Mutex
	// held has the boxes that hold an address. A box that is cut off disturbs no neighbour.
	held map[string]map[string]bool
	off  map[string]bool
	// since has the addresses that both hold.
	since map[string]time.Time
	most  time.Duration
}

func newWatch(l *lab.Lab) (*watch, error) {
	w := &watch{held: map[string]map[string]bool{}, off: map[string]bool{}, since: map[string]time.Time{}}
	for _, a := range lab.VirtualAddresses() {
		w.held[a] = map[string]bool{}
	}
	for _, host := range []string{lab.Gateway, lab.Gateway2} {
		events := make(chan netlink.AddrUpdate, 64)
		err := l.Host(host).Do(func() error {
			return netlink.AddrSubscribeWithOptions(events, nil, netlink.AddrSubscribeOptions{ListExisting: true})
		})
		if err != nil {
			return nil, fmt.Errorf("%s: following addresses: %w", host, err)
		}
		go func() { // until the host goes with its socket
			for e := range events {
				w.change(func() {
					if boxes := w.held[e.LinkAddress.IP.String()]; boxes != nil {
						boxes[host] = e.NewAddr
					}
				})
			}
		}()
	}
	return w, nil
}

// change makes a change and notes its effect.
func (w *watch) change(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	for a, boxes := range w.held {
		holding := 0
		for host, held := range boxes {
			if held && !w.off[host] {
				holding++
			}
		}
		began, both := w.since[a]
		switch {
		case holding == 2 && !both:
			w.since[a] = time.Now()
		case holding < 2 && both:
			w.most = max(w.most, time.Since(began))
			delete(w.since, a)
		}
	}
}

// cut says whether a box is cut off.
func (w *watch) cut(host string, off bool) { w.change(func() { w.off[host] = off }) }

// begin forgets what was.
func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most = 0
	for _, a := range slices.Collect(maps.Keys(w.since)) {
		w.since[a] = time.Now()
	}
}

// longest returns the longest time for which both had the same address.
func (w *watch) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := w.most
	for _, began := range w.since {
		most = max(most, time.Since(began))
	}
	return most
}

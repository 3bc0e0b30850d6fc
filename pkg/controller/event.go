// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"sync"
	"time"
)

// reason is a set of bits that say why the kernel may need a write.
type reason uint8

const (
	// objectsChanged: the source has new objects.
	objectsChanged reason = 1 << iota
	// hostChanged: links, addresses, routes or policy routing rules changed.
	hostChanged
	// checkDue: a check for external modifications is due.
	checkDue
	// resyncDue: a full comparison with the kernel is due.
	resyncDue
	// retryDue: a failed apply is due again.
	retryDue
	// listenersChanged: the listening sockets of the host changed, or what rules of other programs say about it.
	listenersChanged
	// sourcePortsLow: the set of backends that run out of source ports changed.
	sourcePortsLow
)

// String returns the names of the set bits, such as "objects,host".
func (r reason) String() string {
	var names []string
	for bit, name := range []string{"objects", "host", "check", "resync", "retry", "listeners", "source ports"} {
		if r&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// event collects the reasons since the worker last took them.
type event struct {
	reasons reason
	// since is the time of the first one.
	since time.Time
}

// pending collects events while the worker is busy. It is safe for concurrent use.
type pending struct {
	mu sync.Mutex
	event
}

func (p *pending) add(r reason, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A due check is not an event.
	if p.since.IsZero() && r != checkDue {
		p.since = now
	}
	p.reasons |= r
}

func (p *pending) take() event {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.event
	p.event = event{}
	return taken
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"sync"
	"time"
)

// reason is why the kernel may have to be written: a set of bits.
type reason uint8

const (
	// objects have changed.
	objects reason = 1 << iota
	// host: links, addresses, routes or rules of policy routing have changed.
	host
	// check: it is time to look whether somebody else wrote.
	check
	// resync: it is time to find out for sure.
	resync
	// retry: an apply failed, and it is time to try again.
	retry
	// listeners: programs of the host listen on other ports.
	listeners
)

// String returns "objects,host".
func (r reason) String() string {
	var names []string
	for bit, name := range []string{"objects", "host", "check", "resync", "retry", "listeners"} {
		if r&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// event is what happened since the worker looked last.
type event struct {
	reasons reason
	// since is when the first of it did.
	since time.Time
}

// pending collects what happens while the worker is busy. It is safe for several goroutines.
type pending struct {
	mu sync.Mutex
	event
}

func (p *pending) add(r reason, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A look that is due is nothing that happened.
	if p.since.IsZero() && r != check {
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

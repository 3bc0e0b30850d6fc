// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"time"
)

// plan is the size of the benchmark.
type plan struct {
	Services  int `json:"services"`
	Endpoints int `json:"endpoints"` // of each Service, in one EndpointSlice
	Mapped    int `json:"mapped"`    // of the Services, each by a Mapping
	Watchers  int `json:"watchers"`
	Writes    int `json:"writes"` // to mapped EndpointSlices, while watchers listen
	Churn     int `json:"churn"`  // writes to EndpointSlices that are not mapped
	// every is the interval between the starts of writes.
	every time.Duration
	idle  time.Duration
	// patience bounds one step, such as waiting for the last watcher.
	patience time.Duration
}

func full() plan {
	return plan{
		Services: 10000, Endpoints: 10, Mapped: 1000, Watchers: 500, Writes: 200, Churn: 200,
		every: 150 * time.Millisecond, idle: 10 * time.Second, patience: 2 * time.Minute,
	}
}

// quick takes about a minute.
func quick() plan {
	return plan{
		Services: 500, Endpoints: 10, Mapped: 50, Watchers: 50, Writes: 50, Churn: 50,
		every: 50 * time.Millisecond, idle: 2 * time.Second, patience: time.Minute,
	}
}

// smoke only exercises the code.
func smoke() plan {
	return plan{
		Services: 40, Endpoints: 3, Mapped: 10, Watchers: 5, Writes: 10, Churn: 5,
		every: 10 * time.Millisecond, idle: 200 * time.Millisecond, patience: time.Minute,
	}
}

// most is the maximum number of Services with distinct addresses.
const most = 45000

// resize overrides the sizes that are not 0.
func (p plan) resize(services, watchers int) (plan, error) {
	if services != 0 {
		p.Services, p.Mapped = services, services/10
	}
	if watchers != 0 {
		p.Watchers = watchers
	}
	if p.Mapped < 1 || p.Services > most || p.Watchers < 1 {
		return p, fmt.Errorf("%d Services and %d watchers: want 10 to %d Services and at least 1 watcher", p.Services, p.Watchers, most)
	}
	return p, nil
}

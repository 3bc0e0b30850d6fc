// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/ways"
)

// usual is the scene for all contenders.
var usual = scenery{Family: "IPv4", Mode: "endpoints", Targets: scattered}

// plan is what to measure, and how much.
type plan struct {
	// sizes maps contenders to numbers of ports.
	sizes map[string][]int
	// variants are further scenes for SmartNat only, with variantSize ports.
	variants    []scenery
	variantSize int
	// only selects contenders and back ends ("smartnat nft"), and in selects scenes ("IPv6"). Nil selects all.
	only, in *regexp.Regexp
	// cap bounds a start or a change.
	cap time.Duration
	// starts and changes are maximum numbers; startTime and changeTime bound their total time.
	starts, changes       int
	startTime, changeTime time.Duration
	turns                 ways.Turns
	// idle is the time for which SmartNat is measured without changes, with idleAt ports.
	idle   time.Duration
	idleAt int
	// beforeIdle is the pause before that, because changes are saved and reported some seconds later.
	beforeIdle time.Duration
	// budget is the time after which no case starts.
	budget time.Duration
}

func full() plan {
	return plan{
		sizes: map[string][]int{
			smartnat:  {10, 100, 1000, 10000, 30000, 100000},
			byHand:    {100, 1000, 10000, 30000},
			kubeProxy: {100, 1000, 10000},
		},
		variants: []scenery{
			{Family: "IPv4", Mode: "endpoints", Targets: scattered, ForwardedOnly: true},
			{Family: "IPv4", Mode: "endpoints", Targets: inARow},
			{Family: "IPv6", Mode: "endpoints", Targets: scattered},
			{Family: "IPv4", Mode: "service", Targets: inARow},
			{Family: "IPv4", Mode: "endpoints", Targets: scattered, Tenants: 10000},
		},
		variantSize: 10000,
		cap:         2 * time.Minute,
		starts:      3, changes: 100, startTime: 45 * time.Second, changeTime: 20 * time.Second,
		turns: ways.Turns{Pairs: 9, Time: 5 * time.Second, Limits: load.Limits{Count: 2000, Time: time.Second}},
		idle:  30 * time.Second, idleAt: 10000, beforeIdle: 15 * time.Second,
		budget: 40 * time.Minute,
	}
}

// quick takes a few minutes and shows gross deviations.
func quick() plan {
	p := full()
	p.sizes = map[string][]int{smartnat: {10, 1000}, byHand: {1000}, kubeProxy: {1000}}
	p.variantSize = 1000
	p.cap = 20 * time.Second
	p.starts, p.changes, p.changeTime = 1, 20, 5*time.Second
	p.turns = ways.Turns{Pairs: 3, Time: time.Second, Limits: load.Limits{Count: 500, Time: time.Second}}
	p.idle, p.idleAt = 5*time.Second, 1000
	return p
}

// smoke only exercises the code, in tens of seconds.
func smoke() plan {
	p := quick()
	p.variants, p.variantSize = []scenery{{Family: "IPv4", Mode: "endpoints", Targets: scattered, Tenants: 20}}, 20
	p.sizes = map[string][]int{smartnat: {20}, byHand: {20}, kubeProxy: {20}}
	p.changes, p.changeTime = 3, time.Second
	p.turns.Limits.Count = 50
	p.idle, p.idleAt, p.beforeIdle = 100*time.Millisecond, 20, 0
	return p
}

// limit restricts a plan to matching contenders and scenes, and to the given numbers of ports.
func (p plan) limit(only, in, ports string) (plan, error) {
	var err error
	if p.only, err = regexp.Compile(only); err != nil {
		return p, fmt.Errorf("-only: %w", err)
	}
	if p.in, err = regexp.Compile(in); err != nil {
		return p, fmt.Errorf("-in: %w", err)
	}
	if ports == "" {
		return p, nil
	}
	var sizes []int
	for _, text := range strings.Split(ports, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < ways.PortsPerMapping || n%ways.PortsPerMapping != 0 || n > 3*portsPerAddress {
			return p, fmt.Errorf("-n: %q: want a multiple of %d up to %d", text, ways.PortsPerMapping, 3*portsPerAddress)
		}
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	p.sizes = map[string][]int{smartnat: sizes, byHand: sizes, kubeProxy: sizes}
	p.variantSize, p.idleAt = sizes[len(sizes)-1], sizes[len(sizes)-1]
	if in == "" {
		p.variants = nil
	}
	return p, nil
}

// aCase is one contender with one number of ports.
type aCase struct {
	Contender
	ports int
}

// scene is measured in one lab with growing numbers of ports.
type scene struct {
	scenery
	cases []aCase
}

// scenes returns all scenes in order.
func (p plan) scenes() []scene {
	all := contenders()
	if p.only != nil {
		all = slices.DeleteFunc(all, func(c Contender) bool { return !p.only.MatchString(c.String()) })
	}
	first := scene{scenery: usual}
	for _, c := range all {
		for _, n := range p.sizes[c.Name] {
			first.cases = append(first.cases, aCase{c, n})
		}
	}
	slices.SortStableFunc(first.cases, func(a, b aCase) int { return a.ports - b.ports })
	scenes := []scene{first}
	for _, variant := range p.variants {
		s := scene{scenery: variant}
		for _, c := range all {
			if c.Name == smartnat {
				s.cases = append(s.cases, aCase{c, p.variantSize})
			}
		}
		scenes = append(scenes, s)
	}
	return slices.DeleteFunc(scenes, func(s scene) bool { return len(s.cases) == 0 || p.in != nil && !p.in.MatchString(s.String()) })
}

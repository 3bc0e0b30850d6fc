// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/announce/bird"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
)

// startAnnouncer announces served addresses if the config says so. Its networks may change meanwhile.
func (b *builder) startAnnouncer(cfg config.Announce) {
	before := b.announceConfig
	b.announceConfig = cfg
	if b.stopAnnouncer != nil && cfg.Enabled() && cfg.File == before.File && cfg.Socket == before.Socket {
		return
	}
	b.endAnnouncer()
	if !cfg.Enabled() {
		return
	}
	a := bird.New(bird.Options{
		File: cfg.File, Socket: cfg.Socket, Log: b.log,
		Facts: func() *announce.Facts {
			d := b.daemon
			return announceFacts(d.Config().Announce.Networks, d.Alive(), d.Ready(), d.Report())
		},
		Probe: func(nextHops []netip.Addr) { b.nextHops.Store(&nextHops) },
	})
	ctx, cancel := context.WithCancel(b.ctx)
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	b.announcer.Store(a)
	b.stopAnnouncer = func() { cancel(); running.Wait() }
}

// endAnnouncer withdraws all addresses.
func (b *builder) endAnnouncer() {
	if b.stopAnnouncer != nil {
		b.announcer.Store(nil)
		b.nextHops.Store(nil)
		b.stopAnnouncer()
		b.stopAnnouncer = nil
	}
}

// announced returns nil if the config announces nothing.
func (b *builder) announced() *announce.Status {
	a := b.announcer.Load()
	if a == nil {
		return nil
	}
	s := a.Status()
	return &s
}

// announceFacts returns nil while a config that replaces another one has not been applied yet.
func announceFacts(networks []netip.Prefix, alive, ready error, report *finding.Report) *announce.Facts {
	f := announce.Facts{Networks: networks}
	if report != nil {
		f.State, f.Failed = report.State, report.Err != nil
		f.Routes, f.Unreachable = report.Host.Routes, report.Host.Unreachable
	}
	switch {
	case alive != nil:
		f.Problem = alive.Error()
	case ready != nil:
		f.Problem = ready.Error()
	case report == nil:
		return nil
	}
	return &f
}

// announcedRows are those of 'status'.
func announcedRows(s announce.Status) [][]string {
	var announced []string
	for _, a := range announce.Announced(s.Addresses) {
		announced = append(announced, a.String())
	}
	rows := [][]string{{"announces", some(announced)}}
	var reasons []string
	withheld := map[string][]string{}
	for _, a := range s.Addresses {
		if a.Why == "" {
			continue
		}
		if withheld[a.Why] == nil {
			reasons = append(reasons, a.Why)
		}
		withheld[a.Why] = append(withheld[a.Why], a.Address.String())
	}
	for _, why := range reasons {
		rows = append(rows, []string{"not announced", fmt.Sprintf("%s: %s", some(withheld[why]), strings.ReplaceAll(why, "\n", "; "))})
	}
	if s.Problem != "" {
		rows = append(rows, []string{"announcing fails", s.Problem})
	}
	return rows
}

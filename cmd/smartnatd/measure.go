// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/flowlog"
	"github.com/smartnat/smartnat/pkg/meter"
)

// countsTraffic reports whether traffic is counted: metrics show it, and status as well. Without metrics it is not worth its cost.
func countsTraffic(cfg config.Config) bool { return cfg.Metrics.Address != "" }

// measure counts the traffic of Mappings if the config wants that. It continues what an earlier generation counted.
func (b *builder) measure(cfg config.Config, plane string, refusals meter.Refusals) {
	b.meter.ReadRefusals(plane, refusals)
	switch counts := countsTraffic(cfg); {
	case counts && b.stopMeter == nil:
		ctx, cancel := context.WithCancel(b.ctx)
		var running sync.WaitGroup
		running.Go(func() { b.meter.Run(ctx, conntrack.NewTraffic(cfg.Ownership)) })
		b.stopMeter = func() { cancel(); running.Wait() }
	case !counts && b.stopMeter != nil:
		b.stopMeter()
		b.stopMeter = nil
	}
}

// logFlows keeps a log of connections that ended if the config wants that.
func (b *builder) logFlows(cfg config.Config) {
	if cfg.FlowLog == b.flowConfig {
		return
	}
	b.endFlowLog()
	if b.flowConfig = cfg.FlowLog; cfg.FlowLog.File == "" {
		return
	}
	log := flowlog.New(flowlog.Options{File: cfg.FlowLog.File, MaxMegabytes: cfg.FlowLog.MaxMegabytes, Count: &b.logged, Log: b.log})
	ctx, cancel := context.WithCancel(b.ctx)
	var running sync.WaitGroup
	running.Go(func() { log.Run(ctx, conntrack.NewEnded(cfg.Ownership)) })
	b.flowLog.Store(log)
	b.stopFlowLog = func() { cancel(); running.Wait() }
}

// endFlowLog returns once everything is written.
func (b *builder) endFlowLog() {
	if b.stopFlowLog != nil {
		b.flowLog.Store(nil)
		b.stopFlowLog()
		b.stopFlowLog = nil
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/program"
	"github.com/smartnat/smartnat/pkg/metrics"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/rtnetlink"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

func runDaemon(ctx context.Context, load func() (config.Config, error)) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	log, err := newLogger(cfg.Log, os.Stderr)
	if err != nil {
		return err
	}
	if err := source.NoticeSilence(); err != nil {
		return err
	}
	lock, err := lockInstance(cfg.RuntimeDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	memory := newMemory()
	log.WithFields(logrus.Fields{"version": version, "instance": cfg.Instance}).Info("starting")
	// A reload keeps the names that this depends on.
	held := holdConnections(cfg.Ownership, cfg.IPTables.IPv6, activation.Files(true), log)
	defer held.Close()

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	d := &daemon{log: log, manager: newManager(log), hangup: hangup, load: load}
	counts := metrics.New(version, d)
	counts.CountLost(conntrack.Lost)
	d.listen = counts.Server(metrics.Probes{Alive: d.alive, Ready: d.ready}, log).Listen
	d.newObjects = func(cfg config.Config, known *objects.Snapshot) (*objectSource, error) {
		return newObjects(cfg, known, counts.Memory, log)
	}
	d.newRunner = func(cfg config.Config, h hooks) (runner, error) {
		return newRunner(ctx, cfg, h.and(memory), counts, log)
	}
	err = d.run(ctx, cfg)
	log.Info("stopping, programmed rules keep forwarding")
	return err
}

// newRunner constructs the parts that touch the kernel, and their controller.
func newRunner(ctx context.Context, cfg config.Config, h hooks, counts *metrics.Metrics, log *logrus.Logger) (runner, error) {
	tables, err := newIPTables(cfg)
	if err != nil {
		return nil, err
	}
	if other, err := tables.OtherBackendRules(ctx); err != nil {
		log.WithError(err).Warn("cannot check for rules of the other iptables back end")
	} else if other != "" {
		log.Warn(other)
	}
	if err := tables.WithoutIPv6(); err != nil {
		log.WithError(err).Warn("no boundary for IPv6: ip6tables does not work")
	}
	log.WithField("iptables", tables.Backend()).Info("programming the kernel")
	sets, err := newSets(cfg, tables)
	if err != nil {
		log.WithError(err).Warn("no sets on this host, using one rule per source")
	}
	reporter, err := newReporter(cfg, log)
	if err != nil {
		return nil, err
	}
	return reporting{controller.New(controller.Options{
		Config:           cfg,
		Host:             host.New(log, nextHops(cfg.ServiceRoutes)...).Before(sysctl.New(cfg.RuntimeDir).Before).Physdev(tables.Physdev),
		Dataplane:        newDataplane(cfg, tables, counts.Program(tables), sets),
		Log:              log,
		CountSourcePorts: func() ([]gateway.SourcePorts, error) { return conntrack.SourcePorts(cfg.Ownership) },
		PortsCounted:     counts.PortsCounted,
		Applied: func(o controller.Outcome) {
			counts.Applied(o, time.Now())
			if o.Facts != nil {
				reporter.Report(*o.Facts)
			}
			h.applied(o)
		},
		Ready:  h.ready,
		Turned: h.turned,
	}), reporter}, nil
}

func newIPTables(cfg config.Config) (*program.Runner, error) {
	tables, err := program.New(program.Options(cfg.IPTables))
	if err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return tables, nil
}

// newDataplane takes tables for their capabilities, and program for access, which may count calls.
func newDataplane(cfg config.Config, tables *program.Runner, program iptables.Program, sets iptables.Sets) *dataplane.Dataplane {
	var guardOnly []gateway.Family
	if !cfg.IPTables.IPv6 {
		guardOnly = []gateway.Family{gateway.IPv6}
	}
	return dataplane.New(dataplane.Options{
		Ownership: cfg.Ownership,
		GuardOnly: guardOnly,
		Ruleset: iptables.New(iptables.Options{
			Ownership: cfg.Ownership, Program: program, Sets: sets, RandomFully: tables.RandomFully(), GuardOnly: guardOnly,
		}),
		Leftovers: []dataplane.Leftovers{iptables.NewLeftovers(tables.Unused(), cfg.Ownership)},
		Routes:    rtnetlink.New(cfg.Ownership),
		Sysctls:   sysctl.New(cfg.RuntimeDir),
		Conntrack: conntrack.New(cfg.Ownership),
	})
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/rtnetlink"
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
	lock, err := lockInstance(cfg.RuntimeDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	memory := newMemory()
	log.WithFields(logrus.Fields{"version": version, "instance": cfg.Instance}).Info("starting")

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	d := &daemon{
		log: log, manager: newManager(log), hangup: hangup, load: load,
		newObjects: func(cfg config.Config) (*objects, error) { return newObjects(cfg, log) },
		newRunner:  func(cfg config.Config, h hooks) (runner, error) { return newRunner(ctx, cfg, h.and(memory), log) },
	}
	err = d.run(ctx, cfg)
	log.Info("stopping: what is programmed stays and forwards on")
	return err
}

// newRunner constructs what touches the kernel, and the controller that works with it.
func newRunner(ctx context.Context, cfg config.Config, h hooks, log *logrus.Logger) (runner, error) {
	tables, err := newIPTables(cfg)
	if err != nil {
		return nil, err
	}
	if other, err := tables.OtherBackendRules(ctx); err != nil {
		log.WithError(err).Warn("could not look for rules of the other iptables back end")
	} else if other != "" {
		log.Warn(other)
	}
	log.WithField("iptables", tables.Backend()).Info("programming the kernel")
	reporter, err := newReporter(cfg, log)
	if err != nil {
		return nil, err
	}
	return reporting{controller.New(controller.Options{
		Config:    cfg,
		Host:      host.New(log, nextHops(cfg.ServiceRoutes)...),
		Dataplane: newDataplane(cfg, tables),
		Log:       log,
		Applied:   reporter.Report,
		Ready:     h.ready,
		Turned:    h.turned,
	}), reporter}, nil
}

func newIPTables(cfg config.Config) (*iptables.Runner, error) {
	tables, err := iptables.New(iptables.Options(cfg.IPTables))
	if err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return tables, nil
}

func newDataplane(cfg config.Config, tables *iptables.Runner) *dataplane.Dataplane {
	return dataplane.New(dataplane.Options{
		Ownership:   cfg.Ownership,
		RandomFully: tables.RandomFully(),
		IPTables:    tables,
		Sets:        newSets(cfg, tables),
		Routes:      rtnetlink.New(cfg.Ownership),
		Sysctls:     sysctl.New(cfg.RuntimeDir),
		Conntrack:   conntrack.New(cfg.Ownership),
	})
}

// nextHops are the nodes that the configured routes lead through.
func nextHops(routes []gateway.ServiceRoute) []netip.Addr {
	var hops []netip.Addr
	for _, r := range routes {
		hops = append(hops, r.Via...)
	}
	return hops
}

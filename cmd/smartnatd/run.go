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

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/rtnetlink"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

func runDaemon(ctx context.Context, cfg config.Config) error {
	log, err := newLogger(cfg.Log, os.Stderr)
	if err != nil {
		return err
	}
	if err := cfg.CheckFiles(); err != nil {
		return usageError{err}
	}
	lock, err := lockInstance(cfg.RuntimeDir)
	if err != nil {
		return err
	}
	defer lock.Close()

	tables, err := newIPTables(cfg)
	if err != nil {
		return err
	}
	if other, err := tables.OtherBackendRules(ctx); err != nil {
		log.WithError(err).Warn("could not look for rules of the other iptables back end")
	} else if other != "" {
		log.Warn(other)
	}
	log.WithFields(logrus.Fields{"version": version, "instance": cfg.Instance, "iptables": tables.Backend()}).Info("starting")

	control := controller.New(controller.Options{
		Config:    cfg,
		Host:      host.New(log, nextHops(cfg.ServiceRoutes)...),
		Dataplane: newDataplane(cfg, tables),
		Log:       log,
		Ready: func() {
			log.Info("in effect")
			notify(log, daemon.SdNotifyReady+"\nSTATUS=in effect")
		},
	})
	objects, err := source.New(cfg.Source, control.Enqueue, log)
	if err != nil {
		return usageError{err}
	}
	ignoreHangup(ctx, log)
	notify(log, "STATUS=waiting for the first complete list of objects")
	err = control.Run(ctx, objects)
	notify(log, daemon.SdNotifyStopping)
	log.Info("stopping: what is programmed stays and forwards on")
	return err
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

// notify tells systemd, where we run under it.
func notify(log logrus.FieldLogger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.WithError(err).Warn("could not notify systemd")
	}
}

// ignoreHangup keeps a SIGHUP, which many send to have a config read again, from ending us.
func ignoreHangup(ctx context.Context, log logrus.FieldLogger) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				log.Warn("SIGHUP ignored: restart smartnatd for a changed config, traffic flows on meanwhile")
			}
		}
	}()
}

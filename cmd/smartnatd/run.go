// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/announce/bird"
	"github.com/smartnat/smartnat/pkg/audit/trail"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/flowlog"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/ha/pair"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/program"
	"github.com/smartnat/smartnat/pkg/logging"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/metrics"
	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/pkg/page"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/sysctl"
	"github.com/smartnat/smartnat/pkg/systemd"
)

func runDaemon(ctx context.Context, load func() (config.Config, error)) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	log, err := logging.New(logging.Options(cfg.Log), os.Stderr)
	if err != nil {
		return usageError{err}
	}
	if err := source.NoticeSilence(); err != nil {
		return err
	}
	lock, err := lockInstance(cfg.RuntimeDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	log.WithFields(logrus.Fields{"version": version, "instance": cfg.Instance}).Info("starting")

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	saveMemory()
	tokens := &tokens{ctx: ctx, log: log}
	cfg = tokens.load(cfg)
	b := &builder{ctx: ctx, log: log, planes: dataplanes{log: log}, kept: activation.Files(true), meter: meter.New(log, meter.Budget())}
	defer b.close()
	d := daemon.New(daemon.Options{
		Log: log, Systemd: systemd.FromEnvironment(log), Reload: hangup,
		Load: func() (config.Config, error) {
			cfg, err := load()
			if err != nil {
				return cfg, err
			}
			return tokens.load(cfg), nil
		},
		NewSource: b.newSource, NewRunner: b.newRunner,
		NewReporters:   tokens.newReporters,
		Listen:         func(address string) { b.server.Listen(address) },
		CredentialEnds: credentialEnds,
	})
	b.daemon = d
	b.counts = metrics.New(version, d)
	b.counts.CountLost(conntrack.Lost)
	b.counts.CountTracked(conntrack.TableUsage)
	b.counts.CountFlowLog(b.logged.Written, b.logged.Losses)
	b.trail = trail.New(trail.Options{Log: log, Count: b.counts.Audited})
	b.counts.CountAudit(b.trail.Lost)
	defer b.startTrail()()
	b.counts.CountPair(b.pairStatus)
	b.counts.CountAnnounced(b.announced)
	b.counts.CountTraffic(func() meter.Reading { return b.meter.Read(ctx) })
	commands := newOperatorServer(cfg, d, b.meter, b.pairStatus, b.announced, log)
	b.server = b.counts.Server(metrics.Probes{Alive: d.Alive, Ready: d.Ready}, page.New(page.Options{Status: commands.Status, Explain: commands.Explain}), log)
	defer commands.Close()
	if err := commands.Listen(operator.SocketPath(cfg.RuntimeDir)); err != nil {
		log.WithError(err).Warn("status and explain get no answers")
	}
	err = d.Run(ctx, cfg)
	log.Info("stopping, programmed rules keep forwarding")
	return err
}

// builder constructs the parts of each generation of the daemon.
type builder struct {
	ctx    context.Context
	log    *logrus.Logger
	counts *metrics.Metrics
	server *metrics.Server
	planes dataplanes
	meter  *meter.Meter
	// stopMeter ends the counting of traffic. It is nil while nothing counts.
	stopMeter func()
	// flowLog is nil while there is none; stopFlowLog ends it. logged counts for all.
	flowLog     atomic.Pointer[flowlog.Log]
	stopFlowLog func()
	flowConfig  config.FlowLog
	logged      flowlog.Count
	// trail spans generations, so that it also has what a reload changes.
	trail *trail.Trail
	// pair is nil without one; stopPair ends it.
	pair       atomic.Pointer[pair.Pair]
	stopPair   func()
	pairConfig config.Config
	// announcer is nil while nothing is announced; stopAnnouncer ends it.
	announcer      atomic.Pointer[bird.Announcer]
	stopAnnouncer  func()
	announceConfig config.Announce
	// nextHops are those that the announcer wants to know about, or nil.
	nextHops atomic.Pointer[[]netip.Addr]
	daemon   *daemon.Daemon
	// kept are sockets that systemd kept for this process; held is the one that holds connections, or nil before the first
	// generation that needs it.
	kept []*os.File
	held io.Closer
}

// savedObjects returns the file for the objects of a cluster.
func savedObjects(cfg config.Config) snapshotfile.File {
	return snapshotfile.NewFile(filepath.Join(cfg.StateDir, "objects.jsonl"), filepath.Join(cfg.RuntimeDir, "objects.outdated"))
}

// newSource returns the Source of the config. Objects of a cluster are saved, and restored if restore is set.
func (b *builder) newSource(cfg config.Config, restore bool, changed func()) (source.Source, error) {
	start := func(changed func()) (source.Source, error) { return source.New(cfg.Source, changed, b.log) }
	origin := source.Origin(cfg.Source)
	if origin == nil {
		return start(changed)
	}
	return source.Remember(start, b.counts.Memory(savedObjects(cfg)), origin, restore, changed, b.log)
}

// newRunner constructs the parts that touch the kernel, and their controller.
func (b *builder) newRunner(cfg config.Config, hooks daemon.Hooks) (daemon.Runner, error) {
	log := b.log
	chosen, err := choosePlane(cfg, tryOnce(cfg.RuntimeDir, false, func(programs *program.Runner) error { return tryIPTables(b.ctx, cfg, programs) }))
	if err != nil {
		return nil, err
	}
	fields := logrus.Fields{"dataplane": chosen.name, "reason": chosen.reason}
	var counted iptables.Program
	var sets iptables.Sets
	if chosen.programs != nil {
		b.inspect(chosen.programs)
		fields["iptables"] = chosen.programs.Variant()
		counted = b.counts.Program(chosen.programs)
		if sets, err = newSets(cfg, chosen.programs); err != nil {
			log.WithError(err).Warn("no sets on this host, using one rule per source")
		}
	}
	noFlowtable := chosen.flowtable(cfg)
	if chosen.name == config.DataplaneNFTables {
		fields["flowtable"] = spellFlowtable(noFlowtable)
	}
	log.WithFields(fields).Info("programming the kernel")
	programmed, refusals, err := b.planes.dataplane(cfg, chosen, counted, sets)
	if err != nil {
		return nil, fmt.Errorf("%w (nftables because %s)", err, chosen.reason)
	}
	b.hold(cfg, chosen)
	b.measure(cfg, chosen.name, refusals)
	b.logFlows(cfg)
	b.startPair(cfg)
	b.startAnnouncer(cfg.Announce)
	return controller.New(controller.Options{
		Config: cfg,
		Host: b.host(cfg).Physdev(chosen.physdev).
			Flowtable(func() bool { return noFlowtable == nil }).
			Helpers(cfg.Helpers.List()).
			OtherChains(
				func() (gateway.OtherChains, error) { return chosen.otherChains(cfg.Ownership) },
				func() (gateway.OtherChains, error) { return chosen.legacyChains(cfg.Ownership) }),
		Dataplane: programmed,
		Log:       log,
		CountSourcePorts: func(shared []gateway.LinkAddresses) ([]gateway.SourcePorts, error) {
			return conntrack.SourcePorts(cfg.Ownership, shared)
		},
		PortsCounted: b.counts.PortsCounted,
		Applied: func(o controller.Outcome) {
			b.applied(o)
			hooks.Applied(o)
		},
		Ready: func() {
			hooks.Ready()
			freeMemory()
		},
		ItemProcessed: hooks.ItemProcessed,
	}), nil
}

// host returns the host, which probes the next hops of serviceRoutes, and those that the announcer wants to know about.
func (b *builder) host(cfg config.Config) *host.Host {
	h := host.New(b.log, nextHops(cfg.ServiceRoutes)...).Before(sysctl.New(cfg.RuntimeDir).Before)
	if cfg.Announce.Enabled() {
		h.Probe(func() []netip.Addr {
			if hops := b.nextHops.Load(); hops != nil {
				return *hops
			}
			return nil
		})
	}
	return h
}

// applied has those follow who count or log what is in effect.
func (b *builder) applied(o controller.Outcome) {
	b.counts.Applied(o, time.Now())
	if o.Report == nil {
		return
	}
	b.meter.Follow(o.Report.State)
	if o.Err == nil || o.Result.InPlace {
		b.trail.Follow(o.Report, time.Now())
	}
	if log := b.flowLog.Load(); log != nil {
		log.Follow(o.Report.State)
	}
}

// startTrail starts the audit trail, and returns a function that ends it after its last line.
func (b *builder) startTrail() func() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); b.trail.Run(ctx) }()
	return func() {
		cancel()
		<-ended
	}
}

// inspect logs what is unusual about the programs of iptables.
func (b *builder) inspect(programs *program.Runner) {
	if other, err := programs.OtherVariantRules(b.ctx); err != nil {
		b.log.WithError(err).Warn("cannot check for rules of the other iptables variant")
	} else if other != "" {
		b.log.Warn(other)
	}
	if err := programs.WithoutIPv6(); err != nil {
		b.log.WithError(err).Warn("no boundary for IPv6: ip6tables does not work")
	}
}

func newIPTables(cfg config.Config) (*program.Runner, error) {
	tables, err := program.New(program.Options{Variant: cfg.IPTables.Variant, LockTimeout: cfg.IPTables.LockTimeout, IPv6: cfg.IPv6})
	if err != nil {
		return nil, fmt.Errorf("iptables: %w", err)
	}
	return tables, nil
}

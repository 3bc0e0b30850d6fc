// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/ha"
)

// askInterval is the time between questions to the peer.
const askInterval = 2 * time.Second

// Options are the surroundings of a Pair. All are required.
type Options struct {
	Config  config.Config
	Version string
	// Healthy reports whether smartnatd works and everything has been in effect.
	Healthy func() bool
	// State returns what is in effect, or nil before the first apply.
	State func() *gateway.State
	// Neighbours returns those to watch.
	Neighbours func() []ha.Neighbour
	Log        logrus.FieldLogger
}

// Pair is this box's side of a pair.
type Pair struct {
	Options
	mu     sync.Mutex
	status ha.Status
	// missed and answering are neighbours.
	missed, answering []netip.Addr
	questions         uint64
}

// New returns a Pair that does nothing until Run.
func New(options Options) *Pair { return &Pair{Options: options} }

// Run blocks until ctx ends.
func (p *Pair) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { serve(ctx, p.Config.HA, answerTimeout, p.facts, p.Log) })
	all.Go(func() { p.askAgain(ctx) })
	all.Go(func() { p.refresh(ctx) })
	all.Go(func() { p.probe(ctx) })
	all.Wait()
}

// facts returns those for the peer.
func (p *Pair) facts() ha.Facts {
	p.mu.Lock()
	missed, answering, questions := p.missed, p.answering, p.questions
	p.mu.Unlock()
	return ha.Facts{
		Version: p.Version, Instance: p.Config.Instance, Role: Role(p.Config), Priority: p.Config.HA.Priority, Healthy: p.Healthy(),
		Settings: ha.Settings(p.Config, p.State()), Missed: missed, Answering: answering, Questions: questions,
		Connections: readNumber("/proc/sys/net/netfilter/nf_conntrack_count"),
	}
}

// Status returns what is known about the pair.
func (p *Pair) Status() ha.Status {
	own := p.facts()
	var hook *ha.HookResult
	if p.Config.HA.Hook != "" {
		var err error
		if hook, err = ReadHook(p.Config.RuntimeDir); err != nil {
			hook = &ha.HookResult{Role: own.Role.Role, Problem: err.Error()}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Own, s.Hook = own, hook
	if s.Peer != nil {
		s.Differences = ha.Compare(own, *s.Peer)
	}
	return s
}

func (p *Pair) askAgain(ctx context.Context) {
	for ctx.Err() == nil {
		facts, err := Ask(ctx, p.Config.HA)
		if ctx.Err() != nil {
			return
		}
		p.answered(facts, err)
		wait(ctx, askInterval)
	}
}

// answered notes an answer of the peer, and logs what is new.
func (p *Pair) answered(facts ha.Facts, err error) {
	own := p.facts()
	p.mu.Lock()
	before := p.status
	if err != nil {
		p.status.PeerProblem = err.Error()
	} else {
		p.status.Peer, p.status.PeerSeen, p.status.PeerProblem = &facts, time.Now(), ""
	}
	p.mu.Unlock()
	switch {
	case err != nil && before.PeerProblem == "":
		p.Log.WithError(err).Warn("lost the peer, going on alone")
	case err == nil && (before.Peer == nil || before.PeerProblem != ""):
		p.Log.WithField("peer", strconv.Quote(facts.Instance)).Info("found the peer")
	}
	if err != nil {
		return
	}
	var known []string
	if before.Peer != nil {
		known = ha.Compare(own, *before.Peer)
	}
	for _, line := range ha.Compare(own, facts) {
		if !slices.Contains(known, line) {
			p.Log.WithField("difference", line).Warn("the boxes of the pair do not fit together")
		}
	}
}

// refresh has conntrackd send all connections again while this box is primary: on the peer they age, since their packets do not pass. It
// reads the counters of conntrackd on both boxes.
func (p *Pair) refresh(ctx context.Context) {
	for ctx.Err() == nil {
		var err error
		primary := Role(p.Config).Role == ha.Primary
		if primary {
			err = Conntrackd(ctx, ha.RefreshCommand()...)
		}
		counters, copyErr := copying(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = copyErr
		}
		p.refreshed(primary, counters, err)
		wait(ctx, ha.RefreshInterval(timeout("udp_timeout"), timeout("udp_timeout_stream"), timeout("tcp_timeout_established")))
	}
}

func (p *Pair) refreshed(primary bool, counters ha.Copying, err error) {
	p.mu.Lock()
	before := p.status.SyncProblem
	p.status.SyncProblem, p.status.Copying = "", &counters
	switch {
	case err != nil:
		p.status.SyncProblem, p.status.Copying = err.Error(), nil
	case primary:
		p.status.Refreshes++
	}
	p.mu.Unlock()
	if err != nil && before == "" {
		p.Log.WithError(err).Warn("failed to copy connections, will retry")
	}
}

// timeout returns one of the timeouts of the kernel's table, or 0 if it is not known.
func timeout(name string) time.Duration {
	return time.Duration(readNumber("/proc/sys/net/netfilter/nf_conntrack_"+name)) * time.Second
}

func readNumber(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

// Role returns the role of this box: by the addresses that it holds, and by what keepalived said.
func Role(cfg config.Config) ha.Notified {
	held := map[netip.Addr]bool{}
	for _, l := range cfg.HA.Links {
		link, err := net.InterfaceByName(l.Interface)
		if err != nil {
			continue // it holds no address
		}
		addresses, err := link.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					held[ip.Unmap()] = true
				}
			}
		}
	}
	said, err := ReadRole(cfg.RuntimeDir)
	if err != nil {
		said = ha.Notified{} // the addresses decide
	}
	return ha.RoleOf(cfg.HA.VirtualAddresses(), func(a netip.Addr) bool { return held[a] }, said)
}

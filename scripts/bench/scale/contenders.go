// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/process"
	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

// Contender is one way to have ports exposed.
type Contender struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
}

const (
	smartnat  = "smartnat"
	kubeProxy = "kube-proxy"
	byHand    = "iptables-restore"
)

// contenders are all there are; kube-proxy's third mode does without iptables.
func contenders() []Contender {
	return []Contender{
		{smartnat, "legacy"}, {smartnat, "nft"},
		{byHand, "legacy"}, {byHand, "nft"},
		{kubeProxy, "legacy"}, {kubeProxy, "nft"}, {kubeProxy, "nftables"},
	}
}

func (c Contender) String() string { return c.Name + " " + c.Backend }

// runner is a contender at work on the gateway.
type runner interface {
	// prepare readies a gateway that is new; it is not part of the start.
	prepare(ctx context.Context) error
	// start has the contender expose all ports, and may return before it has.
	start(ctx context.Context) error
	// process is what uses memory and processor time; nil when nothing stays.
	process() *lab.Process
	// change moves the watched endpoint, and returns when that was said and where the endpoint is now.
	change(ctx context.Context) (said time.Time, now netip.Addr, err error)
	// used is the processor time so far, with that of the programs that were run.
	used() (time.Duration, error)
	// pause is how long to leave it alone at least before the next change.
	pause() time.Duration
	// stop ends it.
	stop(ctx context.Context) error
}

func (c Contender) runner(w *world, ports int) runner {
	switch c.Name {
	case smartnat:
		return &smartnatRunner{daemon: daemon{world: w}}
	case byHand:
		return &handRunner{world: w, ports: ports}
	}
	return &kubeProxyRunner{daemon: daemon{world: w}, mode: c.Backend}
}

// iptables is the back end of the gateway's iptables.
func (c Contender) iptables() string {
	if c.Backend == "nftables" {
		return "nft"
	}
	return c.Backend
}

// daemon is what contenders that stay have in common.
type daemon struct {
	*world
	running *lab.Process
}

func (d *daemon) process() *lab.Process { return d.running }

func (d *daemon) change(ctx context.Context) (time.Time, netip.Addr, error) {
	return d.moveEndpoint(ctx)
}

func (d *daemon) used() (time.Duration, error) { return process.Time(d.running.PID()) }

func (d *daemon) stop(context.Context) error {
	if d.running == nil {
		return nil
	}
	return d.running.Kill()
}

// smartnatRunner is smartnatd with the objects from a relay.
type smartnatRunner struct{ daemon }

// smartnatConfig lifts the limits, since all ports are of one namespace, and takes endpoints that no controller vouches for:
// none runs here.
const smartnatConfig = lab.RelaySource + `instance: gateway
uplinks:
- {interface: eth1, gateways: [198.51.100.1, "2001:db8:1::1"]}
serviceRoutes:
- {destination: 10.96.0.0/16, via: [10.10.0.11, 10.10.0.12]}
- {destination: "fd00:96::/108", via: ["fd00:10::11", "fd00:10::12"]}
endpointsWithoutSelector: true
maxPortsPerNamespace: 0
maxRulesPerNamespace: 0
log: {level: debug, format: json}
`

func (r *smartnatRunner) prepare(ctx context.Context) error {
	if r.relay == nil {
		relay, err := r.StartRelay(ctx)
		if err != nil {
			return err
		}
		r.relay = relay
	}
	return r.GrantGateway(ctx)
}

func (r *smartnatRunner) start(ctx context.Context) (err error) {
	r.running, err = r.StartGateway(ctx, smartnatConfig+fmt.Sprintf("forwardedOnly: %t\n", r.ForwardedOnly))
	return err
}

func (r *smartnatRunner) pause() time.Duration { return 50 * time.Millisecond }

// endRelay ends the relay, so that the others do not share the machine with it.
func (w *world) endRelay() error {
	if w.relay == nil {
		return nil
	}
	relay := w.relay
	w.relay = nil
	return relay.Kill()
}

// kubeProxyRunner is kube-proxy, as it is by default.
type kubeProxyRunner struct {
	daemon
	mode string
}

func (r *kubeProxyRunner) prepare(ctx context.Context) error {
	return errors.Join(r.endRelay(), forward(ctx, r.Host(lab.Gateway)))
}

func (r *kubeProxyRunner) start(context.Context) (err error) {
	mode := r.mode
	if mode != "nftables" {
		mode = "iptables"
	}
	r.running, err = r.StartKubeProxy(lab.Gateway, gatewayNode, "--proxy-mode="+mode, "--iptables-min-sync-period=1s")
	return err
}

// pause is longer than the second that kube-proxy lets pass between two of its writes.
func (r *kubeProxyRunner) pause() time.Duration { return 1500 * time.Millisecond }

// forward turns the gateway into a router; smartnatd does that itself.
func forward(ctx context.Context, gateway *lab.Host) error {
	if err := ways.Exec(ctx, gateway, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	return nil
}

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

// Contender is one way to expose ports.
type Contender struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
}

const (
	smartnat  = "smartnat"
	kubeProxy = "kube-proxy"
	byHand    = "iptables-restore"

	// nftables is the native API of nf_tables. "nft" is iptables on it.
	nftables = "nftables"
)

// contenders returns all contenders. Those on nftables work without iptables.
func contenders() []Contender {
	return []Contender{
		{smartnat, "legacy"}, {smartnat, "nft"}, {smartnat, nftables},
		{byHand, "legacy"}, {byHand, "nft"},
		{kubeProxy, "legacy"}, {kubeProxy, "nft"}, {kubeProxy, nftables},
	}
}

func (c Contender) String() string { return c.Name + " " + c.Backend }

// runner is a running contender on the gateway.
type runner interface {
	// prepare sets up a new gateway before the measured start.
	prepare(ctx context.Context) error
	// start makes the contender expose all ports. It may return earlier.
	start(ctx context.Context) error
	// process returns the process to measure, or nil if none stays.
	process() *lab.Process
	// change moves the watched endpoint. It returns the time of the change and the endpoint's new address.
	change(ctx context.Context) (said time.Time, now netip.Addr, err error)
	// used returns the processor time so far, including child programs.
	used() (time.Duration, error)
	// pause returns the minimum time between changes.
	pause() time.Duration
	// stop stops the contender.
	stop(ctx context.Context) error
}

func (c Contender) runner(w *world, ports int) runner {
	switch c.Name {
	case smartnat:
		return &smartnatRunner{daemon: daemon{world: w}, native: c.Backend == nftables}
	case byHand:
		return &handRunner{world: w, ports: ports}
	}
	return &kubeProxyRunner{daemon: daemon{world: w}, mode: c.Backend}
}

// iptables returns the variant of the gateway's iptables.
func (c Contender) iptables() string {
	if c.Backend == "legacy" {
		return "legacy"
	}
	return "nf_tables"
}

// daemon has what contenders with a process share.
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

// smartnatRunner is smartnatd with objects from a relay. native means that it programs nf_tables without iptables.
type smartnatRunner struct {
	daemon
	native bool
}

// smartnatConfig lifts the limits per namespace, because all ports are in one namespace, and accepts EndpointSlices without a
// controller, because none runs here.
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
	plane := "iptables"
	if r.native {
		plane = nftables
	}
	r.running, err = r.StartGateway(ctx, smartnatConfig+fmt.Sprintf("forwardedOnly: %t\ndataplane: %s\n", r.ForwardedOnly, plane))
	return err
}

func (r *smartnatRunner) pause() time.Duration { return 50 * time.Millisecond }

// endRelay stops the relay, so that other contenders do not share the machine with it.
func (w *world) endRelay() error {
	if w.relay == nil {
		return nil
	}
	relay := w.relay
	w.relay = nil
	return relay.Kill()
}

// kubeProxyRunner is kube-proxy with its defaults.
type kubeProxyRunner struct {
	daemon
	mode string
}

func (r *kubeProxyRunner) prepare(ctx context.Context) error {
	return errors.Join(r.endRelay(), forward(ctx, r.Host(lab.Gateway)))
}

func (r *kubeProxyRunner) start(context.Context) (err error) {
	mode := r.mode
	if mode != nftables {
		mode = "iptables"
	}
	r.running, err = r.StartKubeProxy(lab.Gateway, gatewayNode, "--proxy-mode="+mode, "--iptables-min-sync-period=1s")
	return err
}

// pause exceeds the second that kube-proxy waits between two writes.
func (r *kubeProxyRunner) pause() time.Duration { return 1500 * time.Millisecond }

// forward enables forwarding on the gateway. smartnatd does that itself.
func forward(ctx context.Context, gateway *lab.Host) error {
	if err := ways.Exec(ctx, gateway, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"); err != nil {
		return fmt.Errorf("enabling forwarding: %w", err)
	}
	return nil
}

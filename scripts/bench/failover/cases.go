// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
	"github.com/smartnat/smartnat/scripts/lab"
)

// scenario is a case.
type scenario struct {
	name string
	// ha has more keys of ha.
	ha string
	// alone means that the other box is away when the traffic begins.
	alone bool
	// prepare runs before the traffic, and restore after it.
	prepare, fault, restore func(ctx context.Context, w *world) error
}

func cases() []scenario {
	uplink, inside := "eth1", "eth0"
	return []scenario{
		{name: "nothing", fault: func(ctx context.Context, _ *world) error { return load.Sleep(ctx, settle) }},
		{name: "box dead in silence", fault: dead, restore: reviveStandby},
		carrier("all links down", lab.PairLinks()...),
		carrier("uplink without carrier", uplink),
		carrier("cluster link without carrier", inside),
		silent("uplink dead in silence", uplink),
		silent("cluster link dead in silence", inside),
		{name: "smartnatd killed", fault: func(_ context.Context, w *world) error { return w.active.Smartnatd.Kill() }, restore: restartSmartnatd},
		{name: "keepalived killed, its unit starts it again", fault: killKeepalived},
		{name: "stopped in order", fault: stopInOrder, restore: voteStandby},
		{name: "rolling upgrade", fault: rollingUpgrade},
		{name: "split and healed", fault: splitAndHeal},
		{name: "returns empty, and the other stops", alone: true, prepare: dead, fault: returnAndTakeOver, restore: voteStandby},
		{name: "UDP older than its timeout, box dead", prepare: shortTimeouts, fault: deadLater, restore: func(ctx context.Context, w *world) error {
			return errors.Join(w.setTimeouts("30", "120"), reviveStandby(ctx, w))
		}},
		{name: "smartnatd hangs", fault: hang, restore: func(_ context.Context, w *world) error { return w.standby.Smartnatd.Signal(unix.SIGCONT) }},
		{name: "100,000 entries, box dead", prepare: fill, fault: dead, restore: func(ctx context.Context, w *world) error {
			return errors.Join(w.setTimeouts("30", "120"), w.empty(ctx), reviveStandby(ctx, w))
		}},
		{name: "returns empty, preempts after 5 s", ha: "preempt: after 5s", alone: true, prepare: dead, fault: func(ctx context.Context, w *world) error {
			return errors.Join(reviveStandby(ctx, w), w.moved(ctx))
		}},
	}
}

func voteStandby(_ context.Context, w *world) error { return w.standby.Vote() }

// rollingUpgrade restarts all programs of one box and then of the other.
func rollingUpgrade(ctx context.Context, w *world) error {
	for range 2 {
		if err := w.restart(ctx, w.standby); err != nil {
			return err
		}
		if err := w.copied(ctx, w.standby); err != nil {
			return err
		}
		if err := stopInOrder(ctx, w); err != nil {
			return err
		}
		if err := w.standby.Vote(); err != nil {
			return err
		}
	}
	return nil
}

// restart restarts all programs of a box, in order.
func (w *world) restart(ctx context.Context, b *lab.Box) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for _, p := range []*lab.Process{b.Keepalived, b.Conntrackd, b.Smartnatd} {
		if err := terminate(ctx, p); err != nil {
			return err
		}
	}
	return errors.Join(b.Smartnatd.Restart(ctx), b.Copy(ctx), b.Vote())
}

// splitAndHeal counts the time with two boxes from the end of the split, in which both have to go on.
func splitAndHeal(ctx context.Context, w *world) error {
	bound, cancel := bounded(ctx)
	defer cancel()
	if err := errors.Join(w.SetSplit(bound, true), w.standby.AwaitPrimary(bound), load.Sleep(ctx, settle)); err != nil {
		return err
	}
	w.watch.begin()
	return errors.Join(w.SetSplit(bound, false), w.oneIsPrimary(bound))
}

// oneIsPrimary waits until one box alone has the addresses.
func (w *world) oneIsPrimary(ctx context.Context) error {
	return lab.Poll(ctx, func(ctx context.Context) error {
		active, err := w.active.Holds(ctx)
		standby, otherErr := w.standby.Holds(ctx)
		if err := errors.Join(err, otherErr); err != nil || active == standby {
			return errors.Join(errors.New("not one box alone has the addresses"), err)
		}
		if standby {
			w.active, w.standby = w.standby, w.active
		}
		return nil
	})
}

// returnAndTakeOver starts the dead box again, and stops the other one when it has all connections.
func returnAndTakeOver(ctx context.Context, w *world) error {
	return errors.Join(reviveStandby(ctx, w), w.copied(ctx, w.standby), load.Sleep(ctx, settle), stopInOrder(ctx, w))
}

const shortTimeout = 12 * time.Second

// shortTimeouts waits until the refreshes follow the timeouts.
func shortTimeouts(ctx context.Context, w *world) error {
	seconds := fmt.Sprint(shortTimeout.Seconds())
	return errors.Join(w.setTimeouts(seconds, seconds), load.Sleep(ctx, 8*time.Second))
}

// deadLater lets the entries of flows get older than their timeout on the standby, where no packet renews them.
func deadLater(ctx context.Context, w *world) error {
	return errors.Join(load.Sleep(ctx, 2*shortTimeout), dead(ctx, w))
}

func (w *world) setTimeouts(first, stream string) error {
	var errs []error
	for _, b := range []*lab.Box{w.active, w.standby} {
		errs = append(errs, w.Host(b.Host).SetSysctl("net.netfilter.nf_conntrack_udp_timeout", first),
			w.Host(b.Host).SetSysctl("net.netfilter.nf_conntrack_udp_timeout_stream", stream))
	}
	return errors.Join(errs...)
}

func hang(ctx context.Context, w *world) error {
	if err := w.active.Smartnatd.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	return w.moved(ctx)
}

const entries = 100_000

// fill gives the primary many entries of another client, and waits until the standby has them.
func fill(ctx context.Context, w *world) error {
	before, err := w.conntrackdTime()
	if err := errors.Join(err, w.setTimeouts("600", "600")); err != nil {
		return err
	}
	err = w.Host(lab.Client2).Do(func() error {
		for i := range entries {
			to := net.UDPAddr{IP: net.ParseIP(lab.VirtualExternal), Port: []int{8080, 8090}[i%2]}
			conn, err := net.DialUDP("udp", &net.UDPAddr{Port: 2000 + i/2}, &to)
			if err != nil {
				return err
			}
			_, err = conn.Write([]byte("x"))
			if err := errors.Join(err, conn.Close()); err != nil {
				return err
			}
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("opening flows: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	err = lab.Poll(ctx, func(ctx context.Context) error {
		out, err := w.Host(w.standby.Host).Exec(ctx, "conntrack", "-C")
		if n, _ := strconv.Atoi(strings.TrimSpace(out)); err == nil && n < entries*9/10 {
			err = fmt.Errorf("the standby has %d entries", n)
		}
		return err
	})
	after, timeErr := w.conntrackdTime()
	w.copying = (after - before) / entries
	return errors.Join(err, timeErr)
}

// conntrackdTime returns the processor time of conntrackd on both boxes.
func (w *world) conntrackdTime() (time.Duration, error) {
	active, err := process.Time(w.active.Conntrackd.PID())
	standby, otherErr := process.Time(w.standby.Conntrackd.PID())
	return active + standby, errors.Join(err, otherErr)
}

// empty removes those entries again.
func (w *world) empty(ctx context.Context) error {
	_, err := w.Host(w.active.Host).Exec(ctx, "conntrack", "-D", "-p", "udp", "--orig-src", lab.Client2Address)
	return err
}

func dead(ctx context.Context, w *world) error {
	return errors.Join(w.die(ctx, w.active), w.moved(ctx))
}

func reviveStandby(ctx context.Context, w *world) error { return w.revive(ctx, w.standby) }

// carrier unplugs links of the primary.
func carrier(name string, links ...string) scenario {
	plug := func(w *world, b *lab.Box, plugged bool) error {
		var errs []error
		for _, link := range links {
			errs = append(errs, w.SetCable(b.Host, link, plugged))
		}
		return errors.Join(errs...)
	}
	return scenario{
		name:    name,
		fault:   func(ctx context.Context, w *world) error { return errors.Join(plug(w, w.active, false), w.moved(ctx)) },
		restore: func(_ context.Context, w *world) error { return plug(w, w.standby, true) },
	}
}

// silent cuts a link of the primary in silence.
func silent(name, link string) scenario {
	return scenario{
		name: name,
		fault: func(ctx context.Context, w *world) error {
			return errors.Join(w.SetSilent(w.active.Host, link, true), w.moved(ctx))
		},
		restore: func(_ context.Context, w *world) error { return w.SetSilent(w.standby.Host, link, false) },
	}
}

func restartSmartnatd(ctx context.Context, w *world) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return w.active.Smartnatd.Restart(ctx)
}

func killKeepalived(ctx context.Context, w *world) error {
	if err := w.active.KillKeepalived(); err != nil {
		return err
	}
	return errors.Join(w.active.RestartKeepalived(ctx), w.moved(ctx))
}

func stopInOrder(ctx context.Context, w *world) error {
	return errors.Join(terminate(ctx, w.active.Keepalived), w.moved(ctx))
}

// terminate stops a program as systemd does, for which an end by SIGTERM is no failure.
func terminate(ctx context.Context, p *lab.Process) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", p.CommandLine(), ctx.Err())
	}
}

// inARow lets the primary die again and again while the same sessions go on.
func inARow(rounds int) scenario {
	name := fmt.Sprintf("box dead in silence, %d times in a row", rounds)
	return scenario{name: name, fault: func(ctx context.Context, w *world) error {
		for i := range rounds {
			began := time.Now()
			if err := errors.Join(dead(ctx, w), reviveStandby(ctx, w), w.copied(ctx, w.standby)); err != nil {
				return fmt.Errorf("round %d: %w", i+1, err)
			}
			if err := load.Sleep(ctx, settle); err != nil {
				return err
			}
			fmt.Printf("round %d took %.1f s: %s\n", i+1, time.Since(began).Seconds(), w.traffic.result().progress())
		}
		return nil
	}}
}

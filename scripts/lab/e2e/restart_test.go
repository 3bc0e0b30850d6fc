// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/smartnat/smartnat/scripts/lab"
)

func testRestart(t *testing.T, w *world) {
	w.namespace(t, "restart", 2)
	w.mapping(t, "restart", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 95, servicePort: 8080}, {port: 95, servicePort: 8080, protocol: udp}]`)
	var addresses []string
	for _, external := range []string{"198.51.100.12", "203.0.113.12", "2001:db8:2::12"} {
		addresses = append(addresses, lab.Join(external, 95))
		w.await(t, lab.Client, "tcp", addresses[len(addresses)-1], nil)
		w.await(t, lab.Client, "udp", addresses[len(addresses)-1], nil)
	}
	ctx := timeout(t, time.Minute)
	count := w.plane.writes(ctx, t, w)
	w.apply(t, mappingYAML("restart", "counted", `addresses: [198.51.100.12], serviceName: echo, mode: endpoints, ports: [{port: 93, servicePort: 8080}]`))
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 93), nil)
	if err := lab.Poll(ctx, func(context.Context) error {
		if count() == 0 {
			return errors.New("no write is counted, so the count proves nothing")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	before, writes := w.kernel(ctx, t), count()

	traffic := startTraffic(ctx, t, w, addresses)
	if err := w.daemon.Kill(); err != nil {
		t.Fatal(err)
	}
	traffic.awaitRounds(ctx, t, 20)
	skip := len(w.daemon.Log())
	if err := w.daemon.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	w.awaitLog(ctx, t, skip, "in effect")
	traffic.awaitRounds(ctx, t, 20)
	traffic.stop(t)

	if n := count() - writes; n != 0 {
		t.Errorf("the restart wrote rules %d times, want 0; its log:\n%s", n, w.daemon.Log()[skip:])
	}
	if diff := cmp.Diff(before, w.kernel(ctx, t)); diff != "" {
		t.Errorf("the restart changed the kernel (-before +after):\n%s", diff)
	}
}

// traffic is a long-lived TCP connection and a UDP flow to each address, and repeated new connections. Each round is an exchange on all of
// them; the first failure ends it.
type traffic struct {
	rounds chan int
	cancel context.CancelFunc
	group  *errgroup.Group
	done   int
}

func startTraffic(ctx context.Context, t *testing.T, w *world, addresses []string) *traffic {
	t.Helper()
	client := w.Host(lab.Client)
	var flows []*lab.Flow
	for _, address := range addresses {
		for _, protocol := range protocols {
			flow, err := client.OpenFlow(ctx, protocol, address, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = flow.Close() })
			flows = append(flows, flow)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	tr := &traffic{rounds: make(chan int), cancel: cancel, group: group}
	group.Go(func() error {
		defer close(tr.rounds)
		for round := 1; ; round++ {
			for i, flow := range flows {
				if err := bounded(ctx, func(ctx context.Context) error { _, err := flow.Echo(ctx); return err }); err != nil {
					return unlessEnded(ctx, fmt.Errorf("round %d, established flow %d: %w", round, i, err))
				}
			}
			for _, address := range addresses {
				for _, protocol := range protocols {
					if err := bounded(ctx, func(ctx context.Context) error { _, err := w.echo(ctx, lab.Client, protocol, address); return err }); err != nil {
						return unlessEnded(ctx, fmt.Errorf("round %d, new %s connection to %s: %w", round, protocol, address, err))
					}
				}
			}
			select {
			case tr.rounds <- round:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return tr
}

// bounded limits an exchange. A datagram that is lost must not go unnoticed until the test ends.
func bounded(ctx context.Context, exchange func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return exchange(ctx)
}

// unlessEnded returns err, or the error of ctx if that is the cause.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// awaitRounds waits for n more rounds.
func (tr *traffic) awaitRounds(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case round, running := <-tr.rounds:
			if !running {
				t.Fatalf("traffic broke: %v", tr.group.Wait())
			}
			tr.done = round
		case <-ctx.Done():
			t.Fatalf("after %d rounds: %v", tr.done, ctx.Err())
		}
	}
}

func (tr *traffic) stop(t *testing.T) {
	t.Helper()
	tr.cancel()
	if err := tr.group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("traffic broke: %v", err)
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package program

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// watched is a running watch.
type watched struct {
	calls <-chan struct{}
	ended <-chan struct{}
	err   error
	stop  context.CancelFunc
}

func watch(t *testing.T, watch func(ctx context.Context, changed func()) error) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan struct{}, 10_000)
	w := &watched{calls: calls, stop: cancel}
	w.ended = testenv.Go(t, func() { w.err = watch(ctx, func() { calls <- struct{}{} }) })
	t.Cleanup(func() {
		cancel()
		<-w.ended
	})
	w.await(t, "the first look")
	return w
}

func (w *watched) await(t *testing.T, what string) {
	t.Helper()
	select {
	case <-w.calls:
	case <-w.ended:
		t.Fatalf("%s: the watch ended: %v", what, w.err)
	case <-time.After(time.Minute):
		t.Fatalf("%s: nothing for a minute", what)
	}
}

// count returns the number of calls until there was none for 200 ms.
func (w *watched) count() int {
	n := 0
	for {
		select {
		case <-w.calls:
			n++
		case <-time.After(200 * time.Millisecond):
			return n
		}
	}
}

func TestWatch(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		w := watch(t, k.Watch)
		k.apply(t, rules.Build(many(k.family, 1000), k.family, rules.Options{Ownership: own}))
		// One call per table or per run of the program, not per rule.
		w.await(t, "a thousand ports")
		if n := 1 + w.count(); n > 3 {
			t.Errorf("%d calls for a thousand ports, want 1 to 3", n)
		}
		for _, write := range []string{
			"-t nat -F SMARTNAT-SERVICES", "-t filter -A INPUT -p tcp -j ACCEPT", "-t filter -R INPUT 2 -p udp -j ACCEPT",
			"-t filter -P FORWARD DROP", "-t mangle -D PREROUTING 1", "-t raw -N OTHER",
		} {
			w.count()
			k.iptables(t, write)
			w.await(t, write)
		}
		// The calls for the last write may come later than count waits, but not with each of several readings.
		calls := 0
		for range 3 {
			w.count()
			k.read(t)
			k.stamps(t)
			if calls = w.count(); calls == 0 {
				break
			}
		}
		if calls != 0 {
			t.Errorf("%d calls after reading rules, want none", calls)
		}
		w.stop()
		<-w.ended
		if w.err != nil {
			t.Error(w.err)
		}
	})
}

// TestWatchOverrun: an overflow of the socket counts as one event, and the watch goes on.
func TestWatchOverrun(t *testing.T) {
	testenv.NewNetNS(t)
	k := newKernel(t, "nft")
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		t.Fatal(err)
	}
	if err := socket.SetReceiveBufferSize(2048, false); err != nil {
		t.Fatal(err)
	}
	k.apply(t, rules.Build(many(k.family, 1000), k.family, rules.Options{Ownership: own}))
	w := watch(t, func(ctx context.Context, changed func()) error {
		defer context.AfterFunc(ctx, socket.Close)()
		return receive(socket, changed)
	})
	if n := w.count(); n > 100 {
		t.Fatalf("%d calls: the socket did not overflow", n)
	}
	k.iptables(t, "-t nat -N OTHER")
	w.await(t, "a change after the overrun")
}

func TestWatchEndsWithTheLock(t *testing.T) {
	testenv.NewNetNS(t)
	lock := filepath.Join(t.TempDir(), "lock")
	w := watch(t, func(ctx context.Context, changed func()) error { return watchLock(ctx, lock, changed) })
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.ended:
	case <-time.After(time.Minute):
		t.Fatal("nothing for a minute")
	}
	if !errors.Is(w.err, fs.ErrNotExist) {
		t.Errorf("err = %v, want ErrNotExist for the removed file", w.err)
	}
	err := watchLock(t.Context(), filepath.Join(lock, "no", "directory"), func() {})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v, want ErrNotExist for the missing directory", err)
	}
}

// BenchmarkRestoreWatched measures the cost that a watch adds to a full write.
func BenchmarkRestoreWatched(b *testing.B) {
	for _, subscribed := range []bool{false, true} {
		b.Run(fmt.Sprintf("watched=%t", subscribed), func(b *testing.B) {
			testenv.NewNetNS(b)
			k := newKernel(b, "nft")
			if subscribed {
				ctx, cancel := context.WithCancel(b.Context())
				ended := testenv.Go(b, func() { _ = k.Watch(ctx, func() {}) })
				defer func() {
					cancel()
					<-ended
				}()
				time.Sleep(100 * time.Millisecond)
			}
			batch := ruleset.Diff(ruleset.Ruleset{}, rules.Build(many(k.family, 10_000), k.family, rules.Options{Ownership: own}), own.ChainPrefix)
			for b.Loop() {
				if err := k.Restore(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				gone := ruleset.Diff(k.read(b), ruleset.Ruleset{Family: k.family}, own.ChainPrefix)
				if err := k.Restore(b.Context(), gone); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func newKernel(t testing.TB, backend string) kernel {
	t.Helper()
	testenv.RequireTool(t, "iptables-"+backend)
	runner, err := New(Options{Variant: variantOf(backend), LockTimeout: 5 * time.Second, IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	return kernel{Runner: runner, family: gateway.IPv4}
}

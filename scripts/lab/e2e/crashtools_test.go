// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// interception tells the next restore program how to kill smartnatd.
const interception = "/run/intercept"

// interceptor kills the program that feeds it.
const interceptor = `if [ "$1" != --version ] && how=$(cat ` + interception + ` 2>/dev/null) && rm ` + interception + `; then
	case $how in
	before) kill -9 $PPID; exit 1;;
	torn) sed '/^COMMIT/,$d' | %[1]s "$@"; kill -9 $PPID; exit 1;;
	half) sed '/^COMMIT/q' | %[1]s "$@"; kill -9 $PPID; exit 1;;
	after) %[1]s "$@"; kill -9 $PPID; exit 1;;
	orphan) kill -9 $PPID; sleep 0.4;;
	esac
fi
`

// interceptRestores teaches the gateway's restore programs to kill smartnatd when they are told to, until the test ends.
func (w *world) interceptRestores(ctx context.Context, t *testing.T) {
	t.Helper()
	gateway := w.Host(lab.Gateway)
	for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
		path, err := gateway.Exec(ctx, "sh", "-c", "command -v "+name)
		if err != nil {
			t.Fatal(err)
		}
		path = strings.TrimSpace(path)
		script, err := gateway.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first, last, found := strings.Cut(script, "exec ")
		if !found {
			t.Fatalf("%s is no script that runs the real one:\n%s", path, script)
		}
		program, _, _ := strings.Cut(last, " ")
		if err := gateway.WriteFile(path, first+fmt.Sprintf(interceptor, program)+"exec "+last); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := gateway.WriteFile(path, script); err != nil {
				t.Error(err)
			}
		})
	}
}

// intruders try all the time to get where they may not: a source that is not allowed to a Mapping, a neighbour over the
// boundary.
type intruders struct {
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu    sync.Mutex
	tries int
	errs  []error
	// arrived are the neighbour's packets that came to the boundary, passed those that went on to the inside.
	arrived, passed int
}

// intruderPort is one that nobody else sends to.
const intruderPort = 9999

func startIntruders(ctx context.Context, t *testing.T, w *world) *intruders {
	t.Helper()
	pod := w.podAddress(t, "crash", podName(0))
	if out, err := w.Host(lab.Rogue).Exec(ctx, "ip", "route", "replace", lab.PodNetwork, "via", lab.External1); err != nil {
		t.Fatal(out, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	i := &intruders{cancel: cancel}
	outside, inside := w.capture(t, "eth1"), w.capture(t, "eth0")
	t.Cleanup(func() { cancel(); i.group.Wait() })
	for _, protocol := range protocols {
		i.every(ctx, func() error {
			const long = 150 * time.Millisecond
			try, cancel := context.WithTimeout(ctx, long)
			defer cancel()
			answer, err := w.echo(try, lab.Client2, protocol, lab.Join("198.51.100.12", 991))
			switch {
			case err == nil:
				return fmt.Errorf("a source that is not allowed was answered by %s: %+v", protocol, answer)
			case isTimeout(err) || ctx.Err() != nil:
				return nil
			}
			return fmt.Errorf("a source that is not allowed was not met by silence: %w", err)
		})
	}
	i.every(ctx, func() error {
		const often = 5 * time.Millisecond
		time.Sleep(often)
		from, to := netip.MustParseAddrPort("198.51.100.66:40000"), netip.MustParseAddrPort(lab.Join(pod, intruderPort))
		return errors.Join(w.Host(lab.Rogue).SendUDP(from, to, "x"), w.Host(lab.Rogue).SendTCP(from, to, lab.SYN, 1, 0))
	})
	i.every(ctx, func() error {
		const often = 20 * time.Millisecond // before a capture has no room any more
		time.Sleep(often)
		arrived, err := intruding(outside, false)
		passed, err2 := intruding(inside, true)
		i.arrived, i.passed = i.arrived+arrived, i.passed+passed
		return errors.Join(err, err2)
	})
	return i
}

// intruding counts a neighbour's packets that a capture has.
func intruding(c *lab.Capture, out bool) (n int, err error) {
	packets, err := c.Packets()
	for _, p := range packets {
		if p.Out == out && p.Destination.Port() == intruderPort && (p.Protocol == unix.IPPROTO_UDP || p.Protocol == unix.IPPROTO_TCP) {
			n++
		}
	}
	return n, err
}

func (i *intruders) every(ctx context.Context, try func() error) {
	i.group.Go(func() {
		for ctx.Err() == nil {
			err := try()
			i.mu.Lock()
			i.tries++
			if err != nil {
				i.errs = append(i.errs, err)
			}
			i.mu.Unlock()
		}
	})
}

// stop ends them and checks that they tried, and that none got in.
func (i *intruders) stop(t *testing.T) {
	t.Helper()
	i.cancel()
	i.group.Wait()
	if err := errors.Join(i.errs...); err != nil {
		t.Errorf("intruders: %v", err)
	}
	if i.arrived < 100 || i.passed > 0 {
		t.Errorf("of %d packets of a neighbour for a pod %d passed the boundary", i.arrived, i.passed)
	}
}

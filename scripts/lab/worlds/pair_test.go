// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// newPair starts both gateways. The first one is primary, and the world's daemon.
func newPair(t *testing.T, w *world, ha string) (first, second *lab.Box) {
	t.Helper()
	testenv.RequireTool(t, "keepalived")
	testenv.RequireTool(t, "conntrackd")
	if err := w.AddPeer(); err != nil {
		t.Fatal(err)
	}
	w.pods(t, 8080)
	objects := []string{
		service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1, p2),
		mapping("echo", "echo", fmt.Sprintf(`addresses: [%s, "%s"], ports: [{port: 8080}, {port: 8080, protocol: UDP}]`, lab.VirtualExternal, lab.VirtualExternalv6)),
	}
	w.objects(t, objects...)
	if err := w.Host(lab.Gateway2).WriteFile(objectsFile, strings.Join(objects, "\n---\n")); err != nil {
		t.Fatal(err)
	}
	first, second = w.Box(lab.Gateway), w.Box(lab.Gateway2)
	for _, b := range []*lab.Box{first, second} {
		w.startBox(t, b, ha)
	}
	for _, b := range []*lab.Box{first, second} {
		if err := b.Vote(); err != nil {
			t.Fatal(err)
		}
		if b == first {
			w.awaitPrimary(t, first)
		}
	}
	return first, second
}

// startBox starts smartnatd and conntrackd.
func (w *world) startBox(t *testing.T, b *lab.Box, ha string) {
	t.Helper()
	if err := b.Start(timeout(t, patience), source+w.dataplane+lab.PairConfig(b.Host, ha, "")); err != nil {
		t.Fatal(err)
	}
}

// awaitPrimary waits until a box has all virtual addresses.
func (w *world) awaitPrimary(t *testing.T, b *lab.Box) {
	t.Helper()
	if err := b.AwaitPrimary(timeout(t, patience)); err != nil {
		t.Fatal(err)
	}
}

// sessions are connections that exchange numbered messages until they are ended.
type sessions struct {
	flows []*lab.Flow
	// datagrams are flows of UDP, with the address that the pod sees.
	datagrams map[*lab.Flow]netip.AddrPort
	end       chan struct{}
	done      sync.WaitGroup
	answers   atomic.Int64
	mu        sync.Mutex
	gaps      []time.Duration
	lost      []error
}

// openSessions opens TCP connections through the virtual addresses of both families, and begins to talk.
func (w *world) openSessions(t *testing.T, each int) *sessions {
	t.Helper()
	s := &sessions{end: make(chan struct{}), datagrams: map[*lab.Flow]netip.AddrPort{}}
	for _, address := range []string{lab.VirtualExternal, lab.VirtualExternalv6} {
		w.await(t, lab.Client, "tcp", lab.Join(address, 8080), nil)
		for range each {
			s.flows = append(s.flows, w.open(t, lab.Client, "tcp", lab.Join(address, 8080), 0))
		}
		f := w.open(t, lab.Client, "udp", lab.Join(address, 8080), 0)
		awaitEcho(t, f, func(a lab.Answer) bool { s.datagrams[f] = a.Client; return true })
	}
	for _, f := range s.flows {
		if _, err := f.Echo(timeout(t, patience)); err != nil {
			t.Fatal(err)
		}
		s.done.Go(func() { s.talk(f) })
	}
	return s
}

func (s *sessions) talk(f *lab.Flow) {
	var longest time.Duration
	for {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := f.Echo(ctx)
		cancel()
		longest = max(longest, time.Since(began))
		if err != nil {
			s.mu.Lock()
			s.lost = append(s.lost, fmt.Errorf("%s: %w", f.Conn.LocalAddr(), err))
			s.mu.Unlock()
			return
		}
		s.answers.Add(1)
		select {
		case <-s.end:
			s.mu.Lock()
			s.gaps = append(s.gaps, longest)
			s.mu.Unlock()
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitAnswers waits until the sessions had a number of answers more, on average.
func (s *sessions) awaitAnswers(t *testing.T, each int) {
	t.Helper()
	want := s.answers.Load() + int64(each*len(s.flows))
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		if got := s.answers.Load(); got < want {
			return fmt.Errorf("%d answers, want %d", got, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// check ends the sessions. All of them must have survived.
func (s *sessions) check(t *testing.T, what string) {
	t.Helper()
	close(s.end)
	s.done.Wait()
	for _, err := range s.lost {
		t.Errorf("%s: lost: %v", what, err)
	}
	if len(s.gaps) != len(s.flows) {
		t.Errorf("%s: %d of %d sessions survived", what, len(s.gaps), len(s.flows))
		return
	}
	for f, from := range s.datagrams {
		awaitEcho(t, f, func(a lab.Answer) bool {
			if a.Client != from {
				t.Errorf("%s: a UDP flow comes from %s, before from %s", what, a.Client, from)
			}
			return true
		})
	}
	slices.Sort(s.gaps)
	t.Logf("%s: %d of %d sessions survived, longest silence: median %s, maximum %s", what, len(s.gaps), len(s.flows),
		s.gaps[len(s.gaps)/2].Round(time.Millisecond), s.gaps[len(s.gaps)-1].Round(time.Millisecond))
}

// awaitCopies waits until the peer's table has all connections.
func (w *world) awaitCopies(t *testing.T, peer *lab.Box, s *sessions) {
	t.Helper()
	if err := peer.AwaitCopies(timeout(t, patience), s.flows); err != nil {
		t.Fatal(err)
	}
}

// takeOver expects all sessions to live on when a fault moves the addresses to a box.
func (w *world) takeOver(t *testing.T, what string, to *lab.Box, fault func(ctx context.Context) error) {
	t.Helper()
	s := w.openSessions(t, 20)
	w.awaitCopies(t, to, s)
	if err := fault(timeout(t, patience)); err != nil {
		t.Fatal(err)
	}
	w.awaitPrimary(t, to)
	w.await(t, lab.Client, "tcp", lab.Join(lab.VirtualExternal, 8080), nil)
	s.check(t, what)
}

// silence cuts links of a box.
func (w *world) silence(t *testing.T, what string, from, to *lab.Box, links ...string) {
	t.Helper()
	w.takeOver(t, what, to, func(context.Context) error {
		var errs []error
		for _, link := range links {
			errs = append(errs, w.SetSilent(from.Host, link, true))
		}
		return errors.Join(errs...)
	})
}

// heal connects links of a box again.
func (w *world) heal(t *testing.T, b *lab.Box, links ...string) {
	t.Helper()
	for _, link := range links {
		if err := w.SetSilent(b.Host, link, false); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitFit waits until both boxes say that all is well.
func awaitFit(t *testing.T, boxes ...*lab.Box) {
	t.Helper()
	for _, b := range boxes {
		if err := b.AwaitFit(timeout(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPair moves established connections from one gateway to the other when it dies in silence, and back when it is stopped in order, or
// when the first one returns and preempts.
func TestPair(t *testing.T) {
	for plane, ha := range map[string]string{"nftables": "", "iptables": "preempt: after 5s"} {
		t.Run(plane, func(t *testing.T) {
			w := newWorld(t, "nf_tables")
			w.dataplane = "dataplane: " + plane + "\n"
			first, second := newPair(t, w, ha)
			w.silence(t, "box dead in silence", first, second, lab.PairLinks()...)

			// The box comes back as after a reboot: empty, and not as primary.
			if err := first.Crash(timeout(t, patience)); err != nil {
				t.Fatal(err)
			}
			w.heal(t, first, lab.PairLinks()...)
			s := w.openSessions(t, 20)
			w.startBox(t, first, ha)
			if err := first.Vote(); err != nil {
				t.Fatal(err)
			}
			what := "preempts"
			if ha == "" {
				what = "stopped in order"
				w.awaitCopies(t, first, s)
				if err := second.Keepalived.End(timeout(t, patience)); err != nil && !endedBy(err, unix.SIGTERM) {
					t.Error(err)
				}
			}
			w.awaitPrimary(t, first)
			w.await(t, lab.Client, "tcp", lab.Join(lab.VirtualExternal, 8080), nil)
			s.check(t, what)
		})
	}
}

// endedBy reports whether a process ended by a signal. The signal also goes to the children of keepalived, which then may end before it
// handles its own.
func endedBy(err error, signal unix.Signal) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == signal
}

// setNeighbours has all neighbours of a pair send what is for the virtual addresses to one box whatever they hear, or to the one that they
// hear of if box is nil.
func (w *world) setNeighbours(t *testing.T, box *lab.Box) {
	t.Helper()
	on := func(host string, args ...string) string {
		out, err := w.Host(host).Exec(timeout(t, patience), append([]string{"ip"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, n := range []struct{ host, link, address string }{
		{lab.Router, "eth1", lab.VirtualExternal}, {lab.Router, "eth1", lab.VirtualExternalv6},
		{lab.Node1, "eth0", lab.VirtualInside}, {lab.Node1, "eth0", lab.VirtualInside6},
		{lab.Node2, "eth0", lab.VirtualInside}, {lab.Node2, "eth0", lab.VirtualInside6},
	} {
		if box == nil {
			on(n.host, "neigh", "del", n.address, "dev", n.link)
			continue
		}
		_, mac, _ := strings.Cut(on(box.Host, "-o", "link", "show", "dev", n.link), "link/ether ")
		mac, _, _ = strings.Cut(mac, " ")
		on(n.host, "neigh", "replace", n.address, "lladdr", mac, "dev", n.link, "nud", "permanent")
	}
}

// splitAndHeal cuts the boxes off from each other while the active one has the sessions, so that both are primary. All neighbours go to the
// other one meanwhile: the active box neither sees nor hears of what the sessions say. Then first, which has the higher priority, gets them.
func (w *world) splitAndHeal(t *testing.T, what string, active, other, first *lab.Box) {
	t.Helper()
	s := w.openSessions(t, 20)
	w.awaitCopies(t, other, s)
	if err := w.SetSplit(timeout(t, patience), true); err != nil {
		t.Fatal(err)
	}
	w.awaitPrimary(t, other)
	w.setNeighbours(t, other)
	s.awaitAnswers(t, 10)
	if err := w.SetSplit(timeout(t, patience), false); err != nil {
		t.Fatal(err)
	}
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		for _, b := range []*lab.Box{active, other} {
			if held, err := b.Holds(ctx); err != nil || held != (b == first) {
				return errors.Join(fmt.Errorf("%s holds the addresses: %t", b.Host, held), err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.setNeighbours(t, nil)
	s.awaitAnswers(t, 10)
	s.check(t, what)
}

// TestPairOfTwoPrimaries cuts the boxes off from each other, and kills a keepalived, which leaves its addresses: both hold the addresses until
// they hear each other again and their programs run. A daemon that hangs gives them up.
func TestPairOfTwoPrimaries(t *testing.T) {
	w := newWorld(t, "nf_tables")
	w.dataplane = "dataplane: nftables\n"
	first, second := newPair(t, w, "")
	awaitFit(t, first, second)
	w.splitAndHeal(t, "split and healed, back at the box that had the sessions", first, second, first)

	awaitFit(t, first, second)
	w.takeOver(t, "keepalived killed", second, func(ctx context.Context) error {
		return errors.Join(first.KillKeepalived(), first.RestartKeepalived(ctx))
	})
	awaitFit(t, first, second)
	w.splitAndHeal(t, "split and healed, at the box that had copies", second, first, first)
	awaitFit(t, first, second)

	// As rendered it would take half a minute.
	if _, err := w.Host(first.Host).Exec(timeout(t, patience), "sed", "-i", "s/interval 10$/interval 1/; s/timeout 9$/timeout 5/", "/etc/keepalived/keepalived.conf"); err != nil {
		t.Fatal(err)
	}
	if err := first.Keepalived.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.takeOver(t, "smartnatd hangs", second, func(context.Context) error { return first.Smartnatd.Signal(unix.SIGSTOP) })
}

// TestPairWatchesNeighbours cuts one link in silence, which VRRP alone does not see: inside, adverts still pass. A neighbour that died for
// both boxes moves nothing.
func TestPairWatchesNeighbours(t *testing.T) {
	w := newWorld(t, "nf_tables")
	w.dataplane = "dataplane: nftables\n"
	first, second := newPair(t, w, "")
	awaitFit(t, first, second)
	w.silence(t, "uplink dead in silence", first, second, "eth1")
	w.heal(t, first, "eth1")
	awaitFit(t, first, second)
	w.silence(t, "cluster link dead in silence", second, first, "eth0")
	w.heal(t, second, "eth0")
	awaitFit(t, first, second)

	if err := w.Host(lab.Router).SetLink("eth1", false); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*lab.Box{first, second} {
		if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
			out, err := w.SmartnatdOn(ctx, b.Host, "ha", "check", "-o", "json")
			if !strings.Contains(out, "neighbour 198.51.100.1 does not answer") {
				return fmt.Errorf("%s does not miss the router: %s: %w", b.Host, out, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if text, err := w.Host(b.Host).ReadFile("/run/smartnat/ha-fault"); err != nil || text != "0\n" {
			t.Errorf("%s: the file for keepalived has %q, %v", b.Host, text, err)
		}
	}
	if held, err := first.Holds(timeout(t, patience)); !held {
		t.Errorf("%s gave up the addresses, though both boxes miss the router: %v", first.Host, err)
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// boxes are both sides of a pair on loopback, in a network where no other process takes their port.
func boxes(t *testing.T) (own, peer config.HA) {
	t.Helper()
	testenv.RequireKernel(t)
	loopback(t)
	one, two := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	const port = 3780
	return config.HA{SyncAddress: one, Peer: two, SyncPort: port}, config.HA{SyncAddress: two, Peer: one, SyncPort: port}
}

// patient is a timeout that no answer reaches.
const patient = time.Minute

// loopback gives the test's own network its addresses.
func loopback(t *testing.T) {
	t.Helper()
	if !testenv.Inside() {
		return
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func right() ha.Facts {
	return ha.Facts{Version: "1", Instance: "gw2", Priority: 100, Settings: map[string]string{}, Role: ha.Notified{Role: ha.Primary}}
}

func TestAsk(t *testing.T) {
	own, peer := boxes(t)
	log, said := test.NewNullLogger()
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { serve(ctx, peer, patient, right, log) })
	await := func(h config.HA) (facts ha.Facts, err error) {
		for range 600 {
			if facts, err = ask(ctx, h, patient); err == nil || !strings.Contains(err.Error(), "refused") {
				break
			}
			wait(ctx, 50*time.Millisecond)
		}
		return facts, err
	}
	if facts, err := await(own); err != nil || facts.Role.Role != ha.Primary {
		t.Errorf("%+v, %v", facts, err)
	}
	// A host that is not the peer gets nothing.
	stranger := own
	stranger.SyncAddress = netip.MustParseAddr("127.0.0.4")
	if facts, err := await(stranger); err == nil || !strings.Contains(err.Error(), "no smartnatd's") {
		t.Errorf("a stranger got %+v, %v", facts, err)
	}
	stop()
	serving.Wait()
	if entry := said.LastEntry(); entry != nil {
		t.Errorf("logged %s", entry.Message)
	}
	// The kernel may close the socket a moment later.
	err := error(nil)
	for range 600 {
		if _, err = ask(t.Context(), own, patient); err != nil && strings.Contains(err.Error(), "the peer does not answer at 127.0.0.3:") {
			return
		}
		wait(t.Context(), 50*time.Millisecond)
	}
	t.Errorf("after the end: %v", err)
}

// TestAskGarbage expects one line from whatever listens on the port.
func TestAskGarbage(t *testing.T) {
	for _, test := range []struct {
		name, want string
		timeout    time.Duration
		answer     func(conn net.Conn)
	}{
		{"nothing", "no smartnatd's: not what smartnatd answers", patient, func(net.Conn) {}},
		{"text", "no smartnatd's: not what smartnatd answers", patient, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n\x1b[2J") }},
		{"without end", "no smartnatd's: more than 65536 bytes", patient, func(c net.Conn) {
			for {
				if _, err := c.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}},
		{"silence", "hangs, or something else listens at", 100 * time.Millisecond, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			own, peer := boxes(t)
			l, err := net.Listen("tcp", netip.AddrPortFrom(peer.SyncAddress, uint16(peer.SyncPort)).String())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					test.answer(c)
					_ = c.Close()
				}
			}()
			// The timeout may end while it still connects: then it was too short for this machine.
			for timeout := test.timeout; timeout <= patient; timeout *= 2 {
				if _, err = ask(t.Context(), own, timeout); err == nil || !strings.Contains(err.Error(), "does not answer") {
					break
				}
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q, want %q", err, test.want)
			}
		})
	}
}

func TestRoleFile(t *testing.T) {
	dir := t.TempDir()
	if said, err := ReadRole(dir); err != nil || said != (ha.Notified{}) {
		t.Errorf("nothing was said: %v, %v", said, err)
	}
	// Processes that were started later may come first.
	for _, step := range []struct {
		started uint64
		pid     int
		role    ha.Role
		latest  bool
	}{{100, 7, ha.Primary, true}, {300, 9, ha.Backup, true}, {200, 8, ha.Fault, false}, {300, 8, ha.Fault, false}, {300, 10, ha.Primary, true}} {
		latest, err := (noted{ha.Notified{Role: step.role, Since: time.Unix(1000, 0).UTC()}, step.started, step.pid}).note(dir)
		if err != nil || latest != step.latest {
			t.Errorf("%+v: latest %v, %v", step, latest, err)
		}
		if said, err := ReadRole(dir); err != nil || (said.Role == step.role) != step.latest {
			t.Errorf("%+v: said %v, %v", step, said, err)
		}
	}
	if started, err := startTime("/proc/self/stat"); err != nil || started == 0 {
		t.Errorf("started %d, %v", started, err)
	}
}

// TestRole reads the addresses of a link that every host has.
func TestRole(t *testing.T) {
	loopback(t)
	cfg := config.Config{RuntimeDir: t.TempDir(), HA: config.HA{Links: []config.HALink{{Interface: "lo", VirtualAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}}}
	if got := Role(cfg); got.Role != ha.Primary {
		t.Errorf("lo has the address: %v", got)
	}
	cfg.HA.Links[0].VirtualAddresses[0] = netip.MustParseAddr("198.51.100.20")
	if got := Role(cfg); got.Role != ha.Backup {
		t.Errorf("lo does not have the address: %v", got)
	}
	cfg.HA.Links[0].Interface = "away0"
	if got := Role(cfg); got.Role != ha.Backup {
		t.Errorf("the link is away: %v", got)
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/vishvananda/netns"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	hostpkg "github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/objects"
)

// watching returns a channel that receives the events of the host.
func watching(t *testing.T, watched *hostpkg.Host) <-chan struct{} {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		defer here.Close()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(here); err != nil {
			t.Errorf("entering the network namespace: %v", err)
			return
		}
		_ = watched.Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return changes
}

// hangs is when a wait for an event ends the test. Nothing here looks without an event, so a busy machine only delays the test.
const hangs = time.Minute

// uplinkTable returns the routing table of the first uplink for both families.
func uplinkTable(t *testing.T) string {
	t.Helper()
	lines := sortedLines(run(t, "ip", "-4 route show table all proto 83") + run(t, "ip", "-6 route show table all proto 83"))
	for i, line := range lines {
		lines[i] = strings.TrimSpace(strings.Replace(line, " table 7380", "", 1))
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}

// TestKernelFollowsUplinks expects that events are enough to follow an uplink, its addresses and its gateways, in both
// families.
func TestKernelFollowsUplinks(t *testing.T) {
	onHosts(t, func(t *testing.T, h *host) {
		run(t, "ip", "route del 192.0.2.0/24 table 7380")
		log, _ := logtest.NewNullLogger()
		watched := hostpkg.New(log)
		changes := watching(t, watched)
		cfg := config.Default()
		cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
		d := h.start()

		run(t, "ip", "-6 route add default via fe80::1 dev eth1")
		const standing = "198.51.100.0/24 dev eth1 scope link\n2001:db8:1::/64 dev eth1 metric 1024 pref medium\n" +
			"default via 198.51.100.1 dev eth1\ndefault via fe80::1 dev eth1 metric 1024 pref medium"
		comeBack := []string{
			"addr replace 198.51.100.10/24 dev eth1", "addr replace 2001:db8:1::10/64 dev eth1 nodad",
			"route replace default via 198.51.100.1", "-6 route replace default via fe80::1 dev eth1",
		}
		for _, step := range []struct {
			name string
			do   []string
			want string
		}{
			{"at the start", nil, standing},
			{"another address", []string{"addr add 192.0.2.10/24 dev eth1", "addr add 2001:db8:9::10/64 dev eth1 nodad"},
				"192.0.2.0/24 dev eth1 scope link\n" + strings.Replace(standing, "default via 1", "2001:db8:9::/64 dev eth1 metric 1024 pref medium\ndefault via 1", 1)},
			{"address removed", []string{"addr del 192.0.2.10/24 dev eth1", "addr del 2001:db8:9::10/64 dev eth1"}, standing},
			{"another gateway", []string{"route replace default via 198.51.100.2", "-6 route del default", "-6 route add default via fe80::2 dev eth1"},
				strings.NewReplacer("198.51.100.1 ", "198.51.100.2 ", "fe80::1", "fe80::2").Replace(standing)},
			{"no gateway", []string{"route del default", "-6 route del default"}, strings.Join(strings.Split(standing, "\n")[:2], "\n")},
			{"the first one again", []string{"route add default via 198.51.100.1", "-6 route add default via fe80::1 dev eth1"}, standing},
			{"down", []string{"link set eth1 down"}, ""},
			{"up", append([]string{"link set eth1 up"}, comeBack...), standing},
			{"down and up at once", append([]string{"link set eth1 down", "link set eth1 up"}, comeBack...), standing},
			{"no carrier", []string{"link set peer1 down"}, ""},
			{"a carrier", append([]string{"link set peer1 up"}, comeBack...), standing},
			{"deleted", []string{"link del eth1"}, ""},
			{"another link of the same name", append([]string{
				"link add eth1 type veth peer name peer1", "link set eth1 addrgenmode none", "link set eth1 up", "link set peer1 up",
			}, comeBack...), standing},
		} {
			for _, args := range step.do {
				run(t, "ip", args)
			}
			began := time.Now()
			for uplinkTable(t) != step.want {
				select {
				case <-changes:
					followOnce(t, watched, cfg, d)
				case <-time.After(hangs):
					t.Fatalf("%s: (-want +got):\n%s", step.name, cmp.Diff(step.want, uplinkTable(t)))
				}
			}
			t.Logf("%s: followed after %v", step.name, time.Since(began).Round(time.Millisecond))
		}
		if _, err := d.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// followOnce does what the controller does after a change.
func followOnce(t *testing.T, watched *hostpkg.Host, cfg config.Config, d *dataplane.Dataplane) {
	t.Helper()
	observed, err := watched.Observe()
	if err != nil {
		t.Fatal(err)
	}
	state, _ := calc.Calculate(objects.Snapshot{}, observed, cfg)
	// A link that changes between Observe and Apply causes an error. The next event corrects it.
	d.HostChanged()
	if _, err := d.Apply(t.Context(), state); err != nil {
		t.Log(err)
	}
}

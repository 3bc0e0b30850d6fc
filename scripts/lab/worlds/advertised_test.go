// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// stolen is the network of a pod, as a neighbour on an uplink advertises it.
var stolen = lab.Prefix{Prefix: netip.MustParsePrefix("fd00:244:1::/64"), OnLink: true, Seconds: 3600}

// TestAdvertisedPodNetworkIsNotTaken makes a neighbour outside advertise the network of the pods as on-link on the uplink, and as a route
// through itself. Connections must keep to the route inside, and cleanup must restore the host.
func TestAdvertisedPodNetworkIsNotTaken(t *testing.T) {
	const pinfo, routes = "net.ipv6.conf.eth1.accept_ra_pinfo", "net.ipv6.conf.eth1.accept_ra_rt_info_max_plen"
	eachPlane(t, func(t *testing.T, w *world) {
		address := w.servePod(t)
		gateway := w.Host(lab.Gateway)
		if err := gateway.SetSysctl(routes, "64"); err != nil {
			t.Fatal(err)
		}
		w.start(t, twoUplinks)
		flow := w.open(t, lab.Client, "tcp", address, 0)
		awaitEcho(t, flow, by(p1, victimPort))

		both := stolen
		both.Route = true
		w.advertise(t, both)
		if got := w.gateway(t, "ip -6 route show "+stolen.String()); strings.Contains(got, "eth1") {
			t.Errorf("the gateway accepted the advertised network:\n%s", got)
		}
		awaitEcho(t, flow, by(p1, victimPort))
		w.await(t, lab.Client, "tcp", address, by(p1, victimPort))

		w.stop(t)
		if output, err := w.Smartnatd(timeout(t, patience), "cleanup", "--config", "/etc/smartnat.yaml"); err != nil {
			t.Fatal(output, err)
		}
		for name, want := range map[string]string{pinfo: "1", routes: "64", "net.ipv6.conf.eth1.accept_ra": "1"} {
			if got, err := gateway.Sysctl(name); err != nil || got != want {
				t.Errorf("after cleanup %s is %s, %v; want %s", name, got, err, want)
			}
		}
	})
}

// TestAdvertisedPodNetworkIsFound uses an uplink that depends on advertisements, so that the host must accept them. Packets that the
// route leads out of the uplink must be dropped there, check must report it, and traffic must continue once the advertisement ends.
func TestAdvertisedPodNetworkIsFound(t *testing.T) {
	eachPlane(t, func(t *testing.T, w *world) {
		address := w.servePod(t)
		w.advertise(t, lab.Prefix{Prefix: netip.MustParsePrefix("2001:db8:66::/64"), OnLink: true, Autonomous: true, Seconds: 3600})
		if got := w.gateway(t, "ip -6 address show dev eth1 scope global mngtmpaddr"); !strings.Contains(got, "2001:db8:66:") {
			t.Fatalf("no address from the advertisement:\n%s", got)
		}
		w.start(t, twoUplinks)
		w.await(t, lab.Client, "tcp", address, by(p1, victimPort))
		w.awaitCheck(t, "RoutedOutside", false)

		w.advertise(t, stolen)
		if got := w.gateway(t, "ip -6 route show "+stolen.String()); !strings.Contains(got, "dev eth1") {
			t.Fatalf("the gateway did not accept the advertised network, so the test proves nothing:\n%s", got)
		}
		capture := w.capture(t, lab.Rogue, "eth0")
		if answer, err := w.ask(timeout(t, patience), lab.Client, "tcp", address); err == nil {
			t.Errorf("answer %+v through the uplink", answer)
		}
		packets, err := capture.Packets()
		if err != nil {
			t.Fatal(err)
		}
		for _, packet := range packets {
			if stolen.Contains(packet.Destination.Addr()) {
				t.Errorf("the neighbour got %s", packet)
			}
		}
		w.awaitCheck(t, "endpoint fd00:244:1::2 is routed out of uplink eth1 by route fd00:244:1::/64, so connections fail", true)

		back := stolen
		back.Seconds = 0
		w.advertise(t, back)
		w.await(t, lab.Client, "tcp", address, by(p1, victimPort))
		w.awaitCheck(t, "RoutedOutside", false)
	})
}

// servePod maps a port to p1, and returns the IPv6 address and port.
func (w *world) servePod(t *testing.T) string {
	t.Helper()
	w.pods(t, victimPort)
	w.objects(t, service(t, "echo", []string{"7000/TCP"}, p1), mapping("echo", "echo", fmt.Sprintf(
		`addresses: [%q], ports: [{port: %d, servicePort: 7000}]`, lab.External1v6, mixedPort)))
	return lab.Join(lab.External1v6, mixedPort)
}

// advertise makes the neighbour on the first uplink send advertisements, and returns once the gateway has processed the first one, which
// is when a second one has arrived.
func (w *world) advertise(t *testing.T, prefixes ...lab.Prefix) {
	t.Helper()
	const hopLimit = "net.ipv6.conf.eth1.hop_limit"
	gateway := w.Host(lab.Gateway)
	before, err := gateway.Sysctl(hopLimit)
	if err != nil {
		t.Fatal(err)
	}
	first, second := byte(77), byte(78)
	if before == "78" {
		first, second = 79, 80
	}
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		for _, limit := range []byte{first, second} {
			if err := w.Host(lab.Rogue).Advertise("eth0", limit, prefixes...); err != nil {
				return err
			}
		}
		got, err := gateway.Sysctl(hopLimit)
		if err == nil && got != fmt.Sprint(second) {
			err = fmt.Errorf("%s is %s: the gateway accepts no advertisements", hopLimit, got)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// awaitCheck runs check until its output contains text, or does not.
func (w *world) awaitCheck(t *testing.T, text string, says bool) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		output, _ := w.Smartnatd(ctx, "check", "--config", "/etc/smartnat.yaml") // it fails if there are warnings
		if strings.Contains(output, text) != says {
			return fmt.Errorf("contains %q: %t, want %t:\n%s", text, !says, says, output)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

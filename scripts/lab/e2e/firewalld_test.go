// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// testFirewalld starts, reloads and stops firewalld, which each time flushes all tables of iptables: SmartNat's rules must be back at
// once, or stay in place with nftables. firewalld uses the variant of the distribution, which is nf_tables.
func testFirewalld(t *testing.T, w *world) {
	testenv.RequireTool(t, "firewalld")
	w.namespace(t, "firewalld", 1)
	w.mapping(t, "firewalld", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:1::12", "2001:db8:2::12"], serviceName: echo, ports: [{port: 1610, servicePort: 8080}]`)
	addresses := []string{"198.51.100.12", "203.0.113.12", "2001:db8:1::12", "2001:db8:2::12"}
	forwards := func(when string) {
		t.Helper()
		for _, address := range addresses {
			w.await(t, lab.Client, "tcp", lab.Join(address, 1610), nil)
		}
		t.Log("forwards " + when)
	}
	forwards("before")
	ctx := timeout(t, time.Minute)
	before := sorted(w.kernel(ctx, t))
	withFirewalld := func(what string, do func() error) {
		t.Helper()
		skip, started := len(w.daemon.Log()), time.Now()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(started)
		if w.plane.holds() {
			w.awaitLog(ctx, t, skip, "repaired", "kind=iptables")
		}
		diff := gocmp.Diff(before, sorted(w.kernel(ctx, t)))
		for diff != "" && time.Since(started) < took+repaired {
			diff = gocmp.Diff(before, sorted(w.kernel(ctx, t)))
		}
		if diff != "" {
			t.Fatalf("%s: not repaired (-before +after):\n%s\n%s", what, diff, w.daemon.Log()[skip:])
		}
		t.Logf("%s took %v, and is repaired %v later", what, took.Round(time.Millisecond), (time.Since(started) - took).Round(time.Millisecond))
		forwards("after " + what)
	}
	// Its reverse path filter for IPv6 looks up the route back with the packet's mark, which for a reply is the route by its uplink, not
	// the link that it came in by.
	w.gateway(t, "sed -i s/^IPv6_rpfilter=.*/IPv6_rpfilter=no/ /etc/firewalld/firewalld.conf")
	w.gateway(t, "mkdir -p /run/dbus /run/firewalld")
	if _, err := w.Host(lab.Gateway).Start("dbus", nil, "dbus-daemon", "--system", "--nofork", "--nopidfile"); err != nil {
		t.Fatal(err)
	}
	var firewalld *lab.Process
	withFirewalld("its start", func() (err error) {
		if firewalld, err = w.Host(lab.Gateway).Start("firewalld", nil, "firewalld", "--nofork", "--nopid"); err != nil {
			return err
		}
		return lab.Poll(ctx, func(ctx context.Context) error {
			_, err := w.Host(lab.Gateway).Exec(ctx, "firewall-cmd", "--state")
			return err
		})
	})
	withFirewalld("its reload", func() error {
		_, err := w.Host(lab.Gateway).Exec(ctx, "firewall-cmd", "--reload")
		return err
	})
	withFirewalld("its end", func() error { return firewalld.Stop(ctx) })
}

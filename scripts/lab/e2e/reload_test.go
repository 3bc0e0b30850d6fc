// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

const configFile = "/etc/smartnat.yaml"

// testReload changes the config under traffic: to a valid one, to an invalid one and back.
func testReload(t *testing.T, w *world) {
	w.namespace(t, "reload", 2)
	w.mapping(t, "reload", `addresses: [198.51.100.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 96, servicePort: 8080}, {port: 96, servicePort: 8080, protocol: udp}]`)
	addresses := []string{lab.Join("198.51.100.12", 96), lab.Join("2001:db8:2::12", 96)}
	for _, address := range addresses {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, address, nil)
		}
	}
	ctx := timeout(t, time.Minute)
	before := w.kernel(ctx, t)
	traffic := startTraffic(ctx, t, w, addresses)
	for _, step := range []struct {
		name, config, want string
		// clamped is set if the kernel must clamp the segment size.
		clamped bool
	}{
		{"a good config", w.config("clampMSS: true\n"), "in effect", true},
		{"a bad config", w.config("clampMSS: maybe\n"), "not reloaded", true},
		{"the first config", w.config(), "in effect", false},
	} {
		skip := len(w.daemon.Log())
		if err := w.Host(lab.Gateway).WriteFile(configFile, step.config); err != nil {
			t.Fatal(err)
		}
		if err := w.daemon.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		w.awaitLog(ctx, t, skip, step.want)
		traffic.awaitRounds(ctx, t, 10)
		if clamped := strings.Contains(w.kernel(ctx, t), w.plane.clamp()); clamped != step.clamped {
			t.Errorf("%s: segments are clamped: %t, want %t", step.name, clamped, step.clamped)
		}
	}
	traffic.stop(t)
	if diff := cmp.Diff(before, w.kernel(ctx, t)); diff != "" {
		t.Errorf("the same config gives another state of the kernel (-before +after):\n%s", diff)
	}
}

// testBootAlone simulates a boot of the gateway while the relay does not answer, not even with a refusal.
func testBootAlone(t *testing.T, w *world) {
	w.namespace(t, "boot", 1)
	mapping := func(port string) string {
		return `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints, ports: [{port: ` + port + `, servicePort: 8080}]`
	}
	w.mapping(t, "boot", mapping("97"))
	addresses := []string{lab.Join("198.51.100.12", 97), lab.Join("203.0.113.12", 97), lab.Join("2001:db8:2::12", 97)}
	for _, address := range addresses {
		w.await(t, lab.Client, "tcp", address, nil)
	}
	ctx := timeout(t, 2*time.Minute)
	before := w.kernel(ctx, t)
	if err := w.relay.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.relay.Signal(unix.SIGCONT) }()
	if err := w.daemon.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Smartnatd(ctx, "cleanup"); err != nil {
		t.Fatal(err)
	}
	w.awaitRefusal(t, lab.Client, "tcp", addresses[0])

	skip := len(w.daemon.Log())
	if err := w.daemon.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	w.awaitLog(ctx, t, skip, "using saved snapshot")
	for _, address := range addresses {
		w.await(t, lab.Client, "tcp", address, nil)
	}
	if diff := cmp.Diff(before, w.kernel(ctx, t)); diff != "" {
		t.Errorf("the kernel differs from before the boot (-before +after):\n%s", diff)
	}

	if err := w.relay.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	w.awaitLog(ctx, t, skip, "synced all objects")
	w.mapping(t, "boot", mapping("98"))
	w.await(t, lab.Client, "tcp", lab.Join("203.0.113.12", 98), nil)
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// saved is the file in which smartnatd saves objects.
const (
	folder = "/var/lib/smartnat"
	saved  = folder + "/objects.jsonl"
)

// testBadDisk fills the disk, then damages the saved file while the relay is unreachable: traffic must not notice either.
func testBadDisk(t *testing.T, w *world) {
	w.namespace(t, "disk", 1)
	mapping := func(port uint16) string {
		return fmt.Sprintf(`addresses: [198.51.100.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints, ports: [{port: %d, servicePort: 8080}]`, port)
	}
	addresses := func(port uint16) []string {
		return []string{lab.Join("198.51.100.12", port), lab.Join("2001:db8:2::12", port)}
	}
	reached := func(port uint16) {
		for _, address := range addresses(port) {
			w.await(t, lab.Client, "tcp", address, nil)
		}
	}
	w.mapping(t, "disk", mapping(980))
	reached(980)
	ctx := timeout(t, time.Minute)
	awaitSaved := func(what string) {
		if err := lab.Poll(timeout(t, patience), func(context.Context) error {
			text, err := w.Host(lab.Gateway).ReadFile(saved)
			if err == nil && !strings.Contains(text, what) {
				err = fmt.Errorf("%s is not in %s", what, saved)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	awaitSaved("sha256")

	skip := len(w.daemon.Log())
	w.gateway(t, "mount -t tmpfs -o size=4k full "+folder)
	unmount := sync.OnceFunc(func() { w.gateway(t, "umount "+folder) })
	defer unmount()
	w.gateway(t, "fallocate -l 4096 "+folder+"/ballast")
	w.mapping(t, "disk", mapping(981))
	reached(981)
	if err := w.daemon.Stop(ctx); err != nil { // it saves pending changes
		t.Error(err)
	}
	w.awaitLog(ctx, t, skip, "failed to save snapshot", "no space left on device")
	if left := w.gateway(t, "ls "+folder); left != "ballast\n" {
		t.Errorf("an incomplete file is left: %s", left)
	}
	unmount()

	// alone starts smartnatd while the relay is stopped, until it logs why it waits. The kernel must keep forwarding meanwhile.
	alone := func(why ...string) {
		if err := w.relay.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = w.relay.Signal(unix.SIGCONT) }()
		skip := len(w.daemon.Log())
		started := make(chan error, 1)
		go func() { started <- w.daemon.Restart(ctx) }()
		w.awaitLog(ctx, t, skip, append(why, "waiting for server")...)
		reached(981)
		if err := w.relay.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		awaitSaved(`"port":981`)
	}
	alone(saved + " is older than what was in effect last")
	text, err := w.Host(lab.Gateway).ReadFile(saved)
	if err := errors.Join(err, w.daemon.Stop(ctx), w.Host(lab.Gateway).WriteFile(saved, text[:len(text)-10])); err != nil {
		t.Fatal(err)
	}
	alone(saved+" cannot be used and is now "+saved+".bad", "is cut off after")
}

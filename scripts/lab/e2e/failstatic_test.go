// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestFailStatic breaks each thing that smartnatd gets objects from, one after the other, under traffic: traffic must not notice, the
// kernel must not change, and the log must name the cause and the recovery.
func TestFailStatic(t *testing.T) {
	w := newWorld(t, native{})
	w.namespace(t, "static", 2)
	w.mapping(t, "static", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 95, servicePort: 8080}, {port: 95, servicePort: 8080, protocol: udp}]`)
	var addresses []string
	for _, external := range []string{"198.51.100.12", "203.0.113.12", "2001:db8:2::12"} {
		addresses = append(addresses, lab.Join(external, 95))
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, addresses[len(addresses)-1], nil)
		}
	}
	for _, test := range []struct {
		name string
		// begin breaks something, and returns a function that repairs it.
		begin func(ctx context.Context, t *testing.T, w *world) (end func() error)
		// why is part of the log message; empty if smartnatd need not notice.
		why string
	}{
		{"etcd and the API server are killed", killControlPlane, ""},
		{"the relay is killed", killRelay, "connection refused"},
		{"packets to the relay are dropped", dropRelay, "i/o timeout"},
		{"the relay's certificate has expired", replaceRelay(-time.Minute, nonsense), "certificate has expired"},
		{"a page in place of the relay", replaceRelay(time.Hour, page), "text/html"},
		{"nonsense in place of the relay", replaceRelay(time.Hour, nonsense), "unable to decode"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := timeout(t, 2*time.Minute)
			before := w.kernel(ctx, t)
			traffic := startTraffic(ctx, t, w, addresses)
			skip := len(w.daemon.Log())
			end := test.begin(ctx, t, w)
			if test.why != "" {
				// The limit of 40 s covers 15 s until silence is noticed plus 5 s for a connection attempt. Without timeouts it would take 50 s.
				w.awaitLogFor(ctx, t, 40*time.Second, skip, "lost connection", test.why)
			}
			traffic.awaitRounds(ctx, t, 20)
			if diff := cmp.Diff(before, w.kernel(ctx, t)); diff != "" {
				t.Errorf("the kernel changed (-before +after):\n%s", diff)
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if test.why != "" {
				w.awaitLogFor(ctx, t, time.Minute, skip, "reconnected to server")
			}
			traffic.awaitRounds(ctx, t, 5)
			traffic.stop(t)
			log := w.daemon.Log()[skip:]
			for _, line := range []string{"lost connection", "reconnected to server"} {
				want := 1
				if test.why == "" {
					want = 0
				}
				if n := strings.Count(log, line); n != want {
					t.Errorf("%q logged %d times, want %d:\n%s", line, n, want, log)
				}
			}
			// Restart, so that the next outage is noticed without the backoff of this one.
			if err := w.daemon.Restart(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("and then everything works", func(t *testing.T) {
		w.mapping(t, "static", `addresses: [198.51.100.12], serviceName: echo, ports: [{port: 96, servicePort: 8080}]`)
		w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 96), nil)
	})
}

func killControlPlane(ctx context.Context, t *testing.T, w *world) func() error {
	etcd, api := w.Process("etcd"), w.Process("kube-apiserver")
	if err := errors.Join(api.Kill(), etcd.Kill()); err != nil {
		t.Fatal(err)
	}
	return func() error {
		if err := errors.Join(etcd.Restart(ctx), api.Restart(ctx)); err != nil {
			return err
		}
		return lab.Poll(ctx, func(ctx context.Context) error {
			return w.Kube().Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		})
	}
}

func killRelay(ctx context.Context, t *testing.T, w *world) func() error {
	if err := w.relay.Kill(); err != nil {
		t.Fatal(err)
	}
	return func() error { return w.relay.Restart(ctx) }
}

// dropRelay drops packets to the relay without an error.
func dropRelay(ctx context.Context, t *testing.T, w *world) func() error {
	drop := func(action string) error {
		_, err := w.Host(lab.Node1).Exec(ctx, "iptables", "--wait", action, "INPUT", "--protocol", "tcp", "--dport", "8443", "--jump", "DROP")
		return err
	}
	if err := drop("--insert"); err != nil {
		t.Fatal(err)
	}
	return func() error { return drop("--delete") }
}

// replaceRelay runs another server at the relay's address, with a certificate for its name.
func replaceRelay(valid time.Duration, answer http.HandlerFunc) func(context.Context, *testing.T, *world) func() error {
	return func(ctx context.Context, t *testing.T, w *world) func() error {
		// No attempt may be refused between the two: the log names the first cause only.
		deliver := dropRelay(ctx, t, w)
		start := killRelay(ctx, t, w)
		certificate, err := w.RelayCertificate(lab.Node1, time.Now().Add(valid))
		if err != nil {
			t.Fatal(err)
		}
		var listener net.Listener
		if err := w.Host(lab.Node1).Do(func() (err error) {
			listener, err = net.Listen("tcp", lab.Join(lab.Node1Address, 8443))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		server := &http.Server{
			Handler: answer, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // failed handshakes
		}
		go func() { _ = server.ServeTLS(listener, "", "") }()
		t.Cleanup(func() { _ = server.Close() })
		if err := deliver(); err != nil {
			t.Fatal(err)
		}
		return func() error { return errors.Join(server.Close(), start()) }
	}
}

func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	_, _ = w.Write([]byte("<html>It works!</html>"))
}

// nonsense answers with an empty list of a kind that was not requested.
func nonsense(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","metadata":{"resourceVersion":"7"},"status":"Success"}`))
}

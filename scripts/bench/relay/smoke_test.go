// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestSmoke runs the whole benchmark with few objects. Every figure must be set, and each watcher must receive each write;
// the values do not matter.
func TestSmoke(t *testing.T) {
	lab.Require(t, lab.WithAPIServerAlone())
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	p := smoke()
	r, err := run(ctx, p, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Relay.Memory; r.Relay.Seconds <= 0 || m.Anon < 1 || m.File < 1 || m.RSS < m.Anon+m.File-0.01 || r.APIServer.RSS < 1 {
		t.Errorf("the relay: %+v, the API server's memory: %+v", r.Relay, r.APIServer)
	}
	for _, l := range r.Lists {
		// The relay serves a quarter of the Services, and fewer bytes of each.
		if relay, api := sum(l.Relay), sum(l.APIServer); relay == 0 || relay >= api || len(l.APIServer) != 2 || len(l.Relay) != 3 {
			t.Errorf("lists by %s: %+v", l.Name, l)
		}
	}
	if len(r.Watched) != 2 {
		t.Fatalf("%d servers watched, want 2", len(r.Watched))
	}
	for _, w := range r.Watched {
		if w.Missing != 0 || w.Median <= 0 || w.P99 < w.Median || w.Last < w.P99 || w.EventBytes < 100 || len(w.Written) != p.Writes {
			t.Errorf("%s: %+v", w.Server, w)
		}
	}
	watches := int64(p.Watchers * len(kinds))
	if s := r.Storm; s == nil || s.Last < s.Ready || s.Bytes <= 0 || s.Broken < watches {
		t.Errorf("restart: %+v, want at least %d watches to break", s, watches)
	}
}

// TestNoAddressIsChosenBeforeOursAreGiven: the API server must not allocate an address that one of our Services uses later.
func TestNoAddressIsChosenBeforeOursAreGiven(t *testing.T) {
	lab.Require(t, lab.WithAPIServerAlone())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w, err := newWorld(ctx, smoke())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	}()
	all, err := w.core.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all.Items {
		if s.Name != "kubernetes" { // it has the first address
			t.Errorf("%s/%s has %s", s.Namespace, s.Name, s.Spec.ClusterIP)
		}
	}
}

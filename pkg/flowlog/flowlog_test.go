// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

var early = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// flow returns a connection of client n from minute n to minute n+1. All are seen as the same source.
func flow(n int) flows.Flow {
	return flows.Flow{
		Protocol: gateway.TCP, Client: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), uint16(n)), External: netip.MustParseAddrPort("198.51.100.10:80"),
		Backend: netip.MustParseAddrPort("10.244.1.2:8080"), Seen: seen, Start: early.Add(time.Duration(n) * time.Minute), End: early.Add(time.Duration(n+1) * time.Minute),
	}
}

var seen = netip.MustParseAddrPort("10.10.0.2:41023")

// ending passes flows and losses, and ends.
type ending struct {
	flows  []flows.Flow
	losses int
	then   func()
}

func (e ending) Watch(ctx context.Context, each func(flows.Flow), lost func()) error {
	for _, f := range e.flows {
		each(f)
	}
	for range e.losses {
		lost()
	}
	e.then()
	<-ctx.Done()
	return nil
}

// log writes flows into a file by a new Log, which it ends.
func log(t *testing.T, file string, megabytes int, e ending) *Count {
	t.Helper()
	count := &Count{}
	logInto(t, count, file, megabytes, e)
	return count
}

func logInto(t *testing.T, count *Count, file string, megabytes int, e ending) {
	t.Helper()
	quiet, _ := test.NewNullLogger()
	l := New(Options{File: file, MaxMegabytes: megabytes, Count: count, Log: quiet})
	forward := gatewaytest.Forward(netip.MustParseAddr("198.51.100.10"), gateway.TCP, 80, 80)
	forward.Owner = "shop/web"
	l.Follow(gateway.State{Forwards: []*gateway.Forward{forward}})
	ctx, cancel := context.WithCancel(t.Context())
	e.then = cancel
	l.Run(ctx, e)
}

// TestReloadsLeaveNothing runs a Log after another, as reloads do, and expects one goroutine for one file.
func TestReloadsLeaveNothing(t *testing.T) {
	before := removers(t)
	count, folder := &Count{}, t.TempDir()
	for i := range 10 {
		logInto(t, count, filepath.Join(folder, "flows.jsonl"), 4, ending{flows: []flows.Flow{flow(i)}})
	}
	if got := removers(t) - before; got != 1 {
		t.Errorf("%d goroutines for one file", got)
	}
	logInto(t, count, filepath.Join(folder, "other.jsonl"), 4, ending{flows: []flows.Flow{flow(10)}})
	if first, _ := search(t, filepath.Join(folder, "flows.jsonl"), time.Time{}); len(first) != 10 || count.Written() != 11 {
		t.Errorf("the first file holds %d of 10 connections, %d of 11 are written", len(first), count.Written())
	}
}

// removers counts the goroutines that remove old files.
func removers(t *testing.T) int {
	t.Helper()
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		t.Fatal(err)
	}
	// By their creation, because a goroutine that did not run yet has another stack.
	return len(regexp.MustCompile(`created by .*\(\*Logger\)\.mill\b`).FindAllString(stacks.String(), -1))
}

func search(t *testing.T, file string, at time.Time) (clients []string, found Found) {
	t.Helper()
	found, err := Search(file, flows.Question{Seen: seen, Protocol: gateway.TCP, At: at}, func(r flows.Record, certain bool) {
		clients = append(clients, fmt.Sprint(r.Client.Port(), " ", r.Mapping, " ", certain))
	})
	if err != nil {
		t.Fatal(err)
	}
	return clients, found
}

func TestLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log", "flows.jsonl")
	other, unknown := flow(2), flow(3)
	other.Seen = netip.MustParseAddrPort("10.10.0.2:4102")
	unknown.Start, unknown.External = time.Time{}, netip.MustParseAddrPort("198.51.100.99:80")
	if count := log(t, file, 4, ending{flows: []flows.Flow{flow(0), flow(1), other, unknown}, losses: 2}); count.Written() != 4 || count.Losses() != 2 {
		t.Errorf("wrote %d, lost %d", count.Written(), count.Losses())
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: it holds addresses of clients", info, err)
	}
	lost := time.Now()
	for _, tc := range []struct {
		name   string
		at     time.Time
		want   []string
		losses int
	}{
		{"at any time", time.Time{}, []string{"0 shop/web true", "1 shop/web true", "3  true"}, 1},
		{"in the first connection", early.Add(30 * time.Second), []string{"0 shop/web true", "3  false"}, 1},
		{"in the second one", early.Add(90 * time.Second), []string{"1 shop/web true", "3  false"}, 1},
		{"before the first one", early.Add(-time.Second), []string{"3  false"}, 1},
		{"later than all", lost.Add(time.Hour), nil, 0},
	} {
		got, found := search(t, file, tc.at)
		if diff := cmp.Diff(tc.want, got); diff != "" || !found.Oldest.Equal(early.Add(time.Minute)) || found.Losses != tc.losses {
			t.Errorf("%s: %+v (-want +got):\n%s", tc.name, found, diff)
		}
	}
	t.Run("another process continues, and says that it was not there", func(t *testing.T) {
		if count := log(t, file, 4, ending{flows: []flows.Flow{flow(7)}}); count.Losses() != 1 {
			t.Errorf("lost %d", count.Losses())
		}
		if got, found := search(t, file, time.Time{}); len(got) != 4 || found.Losses != 2 {
			t.Errorf("%v, %+v", got, found)
		}
	})
}

// TestTornLine expects that the part of a line that a crash left costs no other line.
func TestTornLine(t *testing.T) {
	for _, torn := range []string{`{"end":"2026-01-01T`, `{"seen":"10.10.0.2:41023"`, `{"seen":"10.10.0.2:41023"}` + "\n", "\x00\x00\x00", strings.Repeat("x", 3*maxLine), "null\n[]\n"} {
		file := filepath.Join(t.TempDir(), "flows.jsonl")
		log(t, file, 4, ending{flows: []flows.Flow{flow(0)}})
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(torn)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if got, _ := search(t, file, time.Time{}); len(got) != 1 {
			t.Errorf("%.20q: %v before the next start", torn, got)
		}
		log(t, file, 4, ending{flows: []flows.Flow{flow(1)}})
		if got, _ := search(t, file, time.Time{}); len(got) != 2 {
			t.Errorf("%.20q: %v, want two clients", torn, got)
		}
	}
}

// TestBound expects that the files never take more than the maximum, and keep the latest connections.
func TestBound(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "flows.jsonl")
	const n, batch = 60000, queued / 2
	var written uint64
	for from := 0; from < n; from += batch {
		var some []flows.Flow
		for i := from; i < min(from+batch, n); i++ {
			some = append(some, flow(i))
		}
		written += log(t, file, 4, ending{flows: some}).Written()
	}
	if written != n {
		t.Errorf("wrote %d of %d", written, n)
	}
	got, found := search(t, file, time.Time{})
	if len(got) == 0 || len(got) == n || got[len(got)-1] != fmt.Sprint(n-1, " shop/web true") || !found.Oldest.After(early.Add(time.Hour)) {
		t.Errorf("%d connections since %v", len(got), found.Oldest)
	}
	all, err := filesOf(file)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	for _, path := range all[max(0, len(all)-files):] { // lumberjack removes older ones in the background
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 4<<20 {
		t.Errorf("%d bytes", size)
	}
}

// TestFullQueue expects that connections that are not written in time are lost, and do not block.
func TestFullQueue(t *testing.T) {
	quiet, _ := test.NewNullLogger()
	count := &Count{}
	l := New(Options{Count: count, Log: quiet})
	for i := range queued + 3 {
		l.add(flow(i))
	}
	if count.Losses() != 3 {
		t.Errorf("lost %d, want 3", count.Losses())
	}
}

func TestUnwritable(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if count := log(t, filepath.Join(blocked, "flows.jsonl"), 4, ending{flows: []flows.Flow{flow(0), flow(1)}}); count.Written() != 0 || count.Losses() != 2 {
		t.Errorf("wrote %d, lost %d", count.Written(), count.Losses())
	}
	if _, err := Search(filepath.Join(t.TempDir(), "absent", "flows.jsonl"), flows.Question{Seen: seen}, nil); err != nil {
		t.Errorf("no log: %v", err)
	}
}

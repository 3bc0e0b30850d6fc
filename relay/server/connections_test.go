// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// pipes is a listener that accepts the connections sent to next.
type pipes struct {
	net.Listener
	next chan net.Conn
}

func (p pipes) Accept() (net.Conn, error) { return <-p.next, nil }

// door is an admission without a network.
type door struct {
	*admission
	next chan net.Conn
	all  map[string]*connection
}

func newDoor(limit, perUser int) *door {
	m := newMetrics(prometheus.NewRegistry(), watchcache.New(watchcache.NewEpoch(), 1))
	next := make(chan net.Conn, 2)
	return &door{admission: newAdmission(pipes{next: next}, limit, perUser, m), next: next, all: map[string]*connection{}}
}

// knock offers a connection and reports whether it was admitted.
func (d *door) knock(t *testing.T, name string) bool {
	t.Helper()
	// Accept closes a refused connection and waits for the next one, which the raised limit admits.
	theirs, mine := net.Pipe()
	t.Cleanup(func() { _ = mine.Close() })
	d.next <- theirs
	accepted := make(chan *connection, 1)
	go func() {
		c, err := d.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c.(*connection)
	}()
	closed := make(chan struct{})
	go func() {
		_, _ = mine.Read(make([]byte, 1))
		close(closed)
	}()
	select {
	case c := <-accepted:
		d.all[name] = c
		return true
	case <-closed:
		// Accept now waits for another connection: raise the limit and offer one.
		d.mu.Lock()
		d.limit++
		d.mu.Unlock()
		other, end := net.Pipe()
		t.Cleanup(func() { _ = end.Close() })
		d.next <- other
		(<-accepted).Close()
		d.mu.Lock()
		d.limit--
		d.mu.Unlock()
		return false
	}
}

func (d *door) openOnes() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	open := map[string]bool{}
	for name, c := range d.all {
		if !c.gone {
			open[name] = true
		}
	}
	if len(open) != d.open {
		open["counted wrong"] = true
	}
	return open
}

func (d *door) expect(t *testing.T, names ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, name := range names {
		want[name] = true
	}
	if diff := cmp.Diff(want, d.openOnes()); diff != "" {
		t.Errorf("open connections (-want +got)\n%s", diff)
	}
}

func TestWhoComesDisplacesWhoWaits(t *testing.T) {
	d := newDoor(3, 0)
	for _, name := range []string{"a", "b", "c"} {
		d.knock(t, name)
	}
	if !d.all["a"].prove("gateway") {
		t.Error("first connection of a user was refused")
	}
	d.knock(t, "d")
	d.expect(t, "a", "c", "d")
	d.knock(t, "e")
	d.expect(t, "a", "d", "e")
}

func TestWhatIsProvenIsNotDisplaced(t *testing.T) {
	d := newDoor(2, 0)
	for _, name := range []string{"a", "b"} {
		d.knock(t, name)
		d.all[name].prove("gateway")
	}
	if d.knock(t, "c") {
		t.Error("third connection was admitted")
	}
	d.expect(t, "a", "b")
	for range 2 {
		_ = d.all["a"].Close()
	}
	d.expect(t, "b")
	if !d.knock(t, "d") {
		t.Error("connection was refused although another had closed")
	}
	d.expect(t, "b", "d")
}

func TestNoUserHasAllConnections(t *testing.T) {
	d := newDoor(10, 2)
	for _, name := range []string{"a", "b", "c", "x"} {
		d.knock(t, name)
	}
	got := []bool{d.all["a"].prove("one"), d.all["b"].prove("one"), d.all["c"].prove("one"), d.all["x"].prove("other"), d.all["a"].prove("one")}
	if diff := cmp.Diff([]bool{true, true, false, true, true}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	_ = d.all["a"].Close()
	if !d.all["c"].prove("one") {
		t.Error("connection of the user was refused although another had closed")
	}
}

func TestWithoutALimitAllAreAdmitted(t *testing.T) {
	d := newDoor(0, 0)
	for _, name := range []string{"a", "b", "c"} {
		if !d.knock(t, name) || !d.all[name].prove("one") {
			t.Errorf("%s was not admitted", name)
		}
	}
	d.expect(t, "a", "b", "c")
}

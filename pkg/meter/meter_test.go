// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// kernel is a kernel in memory.
type kernel struct {
	open     []traffic.Flow
	queued   []traffic.Flow
	refusals []traffic.Refusal
	err      error
	// reads counts walks over the open connections.
	reads int
	// during is called in the middle of a walk.
	during func()

	watching chan struct{}
	ended    func(traffic.Flow)
	lost     func()
}

func (k *kernel) Watch(ctx context.Context, ended func(traffic.Flow), lost func()) error {
	k.ended, k.lost = ended, lost
	close(k.watching)
	<-ctx.Done()
	return nil
}

func (k *kernel) Drain() error {
	for _, f := range k.queued {
		k.ended(f)
	}
	k.queued = nil
	return nil
}

func (k *kernel) Open(each func(traffic.Flow)) error {
	k.reads++
	for _, f := range k.open {
		each(f)
	}
	if k.during != nil {
		k.during()
	}
	return k.err
}

func (k *kernel) Refusals(context.Context) ([]traffic.Refusal, bool, error) {
	return k.refusals, true, k.err
}

var frontend = gateway.Frontend{Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: gateway.Port(80)}

func flow(id uint32, packets uint64) traffic.Flow {
	return traffic.Flow{ID: id, Protocol: gateway.TCP, Destination: netip.AddrPortFrom(frontend.Address, 80), FromClient: traffic.Volume{Packets: packets}}
}

func start(t *testing.T) (*Meter, *kernel, *logtest.Hook) {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	m, k := New(log, Budget()), &kernel{watching: make(chan struct{})}
	m.Follow(gateway.State{Forwards: []*gateway.Forward{{Owner: "a/web", Frontend: frontend}}})
	m.ReadRefusals("nftables", k)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx, k) })
	t.Cleanup(func() { cancel(); running.Wait() })
	<-k.watching
	return m, k, hook
}

// again makes the Meter read the kernel although it just did.
func (m *Meter) again(t *testing.T) Reading {
	t.Helper()
	m.budget = budget.Budget{}
	return m.Read(t.Context())
}

func expect(t *testing.T, what string, got Reading, losses uint64, totals traffic.Totals) {
	t.Helper()
	want := Reading{At: got.At, Refusals: true, Losses: losses, Entries: []traffic.Entry{{Owner: "a/web", Frontend: frontend, Totals: totals}}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestMeter(t *testing.T) {
	m, k, hook := start(t)
	packets := func(n uint64) traffic.Volume { return traffic.Volume{Packets: n} }
	k.open, k.refusals = []traffic.Flow{flow(1, 5)}, []traffic.Refusal{{Reason: traffic.SourceNotAllowed, Protocol: gateway.TCP, Destination: flow(1, 0).Destination, Packets: 3}}
	first := traffic.Totals{Connections: 1, FromClient: packets(5), Open: 1, Dropped: 3}
	reading := m.Read(t.Context())
	expect(t, "open", reading, 0, first)
	k.open[0].FromClient = packets(7)
	m.budget.Spend(time.Now(), time.Minute) // however slow the machine is
	for range 100 {
		expect(t, "a moment later", m.Read(t.Context()), 0, first)
	}
	if at := m.Read(t.Context()).At; k.reads != 1 || !at.Equal(reading.At) {
		t.Errorf("%d readings for 102 readers, the last at %s after %s", k.reads, at, reading.At)
	}
	// A message that waits in the socket when the walk ends belongs to the walk.
	k.during = func() { k.queued, k.open = []traffic.Flow{flow(1, 9)}, nil }
	expect(t, "it ends during the walk", m.again(t), 0, traffic.Totals{Connections: 1, FromClient: packets(7), Open: 1, Dropped: 3})
	k.during = nil
	expect(t, "it has ended", m.again(t), 0, traffic.Totals{Connections: 1, FromClient: packets(9), Dropped: 3})

	k.lost()
	ended := traffic.Totals{Connections: 2, FromClient: packets(10), Dropped: 3}
	k.ended(flow(2, 1))
	expect(t, "another one is lost", m.again(t), 1, ended)

	k.err = errors.New("no conntrack")
	k.ended(flow(3, 1))
	for range 2 {
		expect(t, "a failure", m.again(t), 1, ended)
	}
	if entries := hook.AllEntries(); len(entries) != 1 || entries[0].Level != logrus.WarnLevel || !strings.Contains(entries[0].Message, "cannot read traffic") {
		t.Errorf("logged %v, want one warning", entries)
	}
	k.err = nil
	expect(t, "it works again", m.again(t), 1, traffic.Totals{Connections: 3, FromClient: packets(11), Dropped: 3})

	// The counters of another data plane begin at zero.
	m.ReadRefusals("iptables", k)
	expect(t, "another data plane", m.again(t), 1, traffic.Totals{Connections: 3, FromClient: packets(11), Dropped: 6})
	m.ReadRefusals("iptables", k)
	expect(t, "after a reload", m.again(t), 1, traffic.Totals{Connections: 3, FromClient: packets(11), Dropped: 6})
}

// TestRestart expects that a second Run counts as a loss, because connections ended in between.
func TestRestart(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	m := New(log, Budget())
	for i := range uint64(2) {
		ctx, cancel := context.WithCancel(t.Context())
		k := &kernel{watching: make(chan struct{})}
		done := make(chan struct{})
		go func() { m.Run(ctx, k); close(done) }()
		<-k.watching
		if losses := m.again(t).Losses; losses != i {
			t.Errorf("%d losses in run %d", losses, i)
		}
		cancel()
		<-done
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus/hooks/test"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/flowlog"
	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// fakeDaemon is in effect with one Mapping.
type fakeDaemon struct {
	report  *finding.Report
	status  daemon.Status
	err     error
	flowLog string
	// plan compares the kernel with a State.
	plan func(gateway.State) dataplane.Plan
}

func (d *fakeDaemon) Config() config.Config {
	return config.Config{FlowLog: config.FlowLog{File: d.flowLog}, Instance: "gateway-1", Source: config.Source{Relay: &config.Relay{Servers: []string{"https://10.0.0.11:8443"}}}}
}
func (d *fakeDaemon) Status() daemon.Status   { return d.status }
func (d *fakeDaemon) Report() *finding.Report { return d.report }

func (d *fakeDaemon) LastChanges() map[string]time.Time {
	return map[string]time.Time{"shop/db": began, "shop/gone": began}
}

func (d *fakeDaemon) Tracer(_ context.Context, family gateway.Family) (packet.Tracer, error) {
	own := gateway.DefaultOwnership()
	return ruleset.NewTracer(rules.Build(d.report.State, family, own), own.TableName(), rules.BridgedMark(own)), d.err
}

func (d *fakeDaemon) Plan(_ context.Context, state gateway.State) (dataplane.Plan, error) {
	if d.plan == nil {
		return dataplane.Plan{}, d.err
	}
	return d.plan(state), d.err
}

func inEffect() *fakeDaemon {
	forward := gatewaytest.Forward(netip.MustParseAddr("198.51.100.10"), gateway.TCP, 5432, 5432, gatewaytest.Backends("10.244.1.5:5432")...)
	forward.Owner, forward.Service = "shop/db", "shop/postgres"
	mapping := func(name string) *v1alpha1.Mapping {
		return &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1alpha1.MappingSpec{ServiceName: "postgres"}}
	}
	return &fakeDaemon{
		status: daemon.Status{Ready: true, Synced: true, Contact: source.Contact{Servers: []source.Server{{Name: "10.0.0.11:8443", InUse: true, Failures: 2}}}},
		report: &finding.Report{
			State: gateway.State{Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1}}, Forwards: []*gateway.Forward{forward}},
			Host: gateway.Host{Links: []gateway.Link{
				{Name: "eth1", Up: true, Addresses: gatewaytest.Prefixes("198.51.100.10/24", "fe80::1/64")},
			}},
			Snapshot: objects.Snapshot{Mappings: []*v1alpha1.Mapping{mapping("db"), mapping("broken"), mapping("away")}},
			Findings: []finding.Finding{
				{Namespace: "shop", Name: "broken", Field: "spec.serviceName", Reason: finding.ReasonServiceNotFound, Message: "no Service"},
				{Namespace: "shop", Name: "away", Field: "spec.addresses[0]", Reason: finding.ReasonAddressNotOnHost, Message: "not here"},
				{Field: "uplinks", Reason: finding.ReasonLinkDown, Message: "eth2 is down"},
			},
		},
	}
}

// options are those of a server for the daemon.
func options(d Daemon) Options {
	log, _ := test.NewNullLogger()
	return Options{
		Version: "1.2.3", Daemon: d, Log: log, Pair: func() *ha.Status { return nil }, Announced: func() *announce.Status { return nil },
		Route: func(destination netip.Addr, _ uint32) (explain.Hop, error) {
			if destination == netip.MustParseAddr("10.244.1.5") {
				return explain.Hop{Link: "eth0"}, nil
			}
			return explain.Hop{Link: "eth1"}, nil
		},
		Connections: func(explain.Flow) ([]explain.Connection, error) { return nil, nil },
		Traffic: func(context.Context) meter.Reading {
			return meter.Reading{Refusals: true, Entries: []traffic.Entry{
				{Owner: "shop/db", Totals: traffic.Totals{Connections: 3, Open: 1, FromClient: traffic.Volume{Bytes: 10}, Dropped: 2}},
				{Owner: "shop/db", Totals: traffic.Totals{Connections: 4, Open: 2, ToClient: traffic.Volume{Bytes: 20}, Rejected: 1}},
			}}
		},
		FlowLog: func(string, flows.Question, func(flows.Record, bool)) (flowlog.Found, error) {
			return flowlog.Found{}, errors.New("no log")
		},
		Flows: func(each func(flows.Flow)) error {
			for _, f := range openFlows() {
				each(f)
			}
			return nil
		},
	}
}

// serve returns a client of a server for the daemon.
func serve(t *testing.T, d Daemon) (*Client, string) {
	t.Helper()
	client := listen(t, options(d))
	return client, client.path
}

func listen(t *testing.T, o Options) *Client {
	t.Helper()
	path := SocketPath(t.TempDir())
	s := NewServer(o)
	if err := s.Listen(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return NewClient(path)
}

func TestStatus(t *testing.T) {
	d := inEffect()
	client, _ := serve(t, d)
	got, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Status{
		Version: "1.2.3", Instance: "gateway-1", State: InEffect,
		Source:  Source{Origin: "relay https://10.0.0.11:8443", Connected: true, Servers: []RelayServer{{"10.0.0.11:8443", true, 2}}},
		Uplinks: []Uplink{{Link: "eth1", Number: 1, Up: true, Addresses: gatewaytest.Addrs("198.51.100.10")}},
		Mappings: []Mapping{
			{Namespace: "shop", Name: "away", Service: "postgres", Elsewhere: true, Findings: []Finding{{finding.ReasonAddressNotOnHost, "spec.addresses[0]", "not here"}}},
			{Namespace: "shop", Name: "broken", Service: "postgres", Findings: []Finding{{finding.ReasonServiceNotFound, "spec.serviceName", "no Service"}}},
			{Namespace: "shop", Name: "db", Service: "postgres", LastChange: began, Ready: true, Frontends: []string{"198.51.100.10:5432/tcp"}, Traffic: &Traffic{
				Open: 3, Connections: 7, BytesFromClients: 10, BytesToClients: 20, Dropped: ptr.To[uint64](2), Rejected: ptr.To[uint64](1),
			}},
		},
		Findings: []Finding{{finding.ReasonLinkDown, "uplinks", "eth2 is down"}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestStatusOfAGatewayThatIsNotComplete(t *testing.T) {
	at := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		daemon  fakeDaemon
		state   State
		problem string
	}{
		{"before the first apply", fakeDaemon{}, Starting, "waiting for the first complete list of objects"},
		{
			"without its source", fakeDaemon{status: daemon.Status{Ready: true, Synced: true, Missing: []string{"a part"}, Contact: source.Contact{Lost: true, Since: at, Why: "refused"}}},
			Degraded, "lost since 2026-11-30T10:00:00Z: refused",
		},
		{
			"from saved objects", fakeDaemon{status: daemon.Status{Ready: true, Missing: []string{"a part"}, Restored: at}},
			Degraded, "not read since the start, objects are from 2026-11-30T10:00:00Z",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, _ := serve(t, &tc.daemon)
			got, err := client.Status(t.Context())
			if err != nil || got.State != tc.state || got.Source.Problem != tc.problem || got.Source.Connected {
				t.Errorf("%+v, %v; want %s, %q", got, err, tc.state, tc.problem)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	client, _ := serve(t, inEffect())
	flow, err := explain.ParseFlow("203.0.113.7", "198.51.100.10:5432", "tcp")
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Explain(t.Context(), flow)
	if err != nil || got.Verdict != explain.Forwarded || got.Mapping != "shop/db" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestQuestionsWithoutAnAnswer(t *testing.T) {
	broken := inEffect()
	broken.err = errors.New("no netlink")
	for _, tc := range []struct {
		name                          string
		daemon                        *fakeDaemon
		source, destination, protocol string
		want                          string
	}{
		{"a source that is no address", inEffect(), "client", "198.51.100.10:80", "tcp", `source "client": want an IP address`},
		{"a source with a zone", inEffect(), "fe80::1%eth0", "[2001:db8::1]:80", "tcp", "want an IP address"},
		{"a destination without a port", inEffect(), "203.0.113.7", "198.51.100.10", "tcp", "want ADDRESS:PORT"},
		{"port 0", inEffect(), "203.0.113.7", "198.51.100.10:0", "tcp", "want ADDRESS:PORT"},
		{"two families", inEffect(), "203.0.113.7", "[2001:db8::1]:80", "tcp", "want addresses of one family"},
		{"a protocol that is none", inEffect(), "203.0.113.7", "198.51.100.10:80", "icmp", "want tcp, udp or sctp"},
		{"nothing is programmed yet", &fakeDaemon{}, "203.0.113.7", "198.51.100.10:80", "tcp", "programmed nothing yet"},
		{"the kernel cannot be read", broken, "203.0.113.7", "198.51.100.10:80", "tcp", "reading the rules in the kernel: no netlink"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, _ := serve(t, tc.daemon)
			// Not by Explain, which cannot ask some of these.
			query := url.Values{"source": {tc.source}, "destination": {tc.destination}, "protocol": {tc.protocol}}
			err := client.get(t.Context(), explainPath, query, new(explain.Answer))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tc.want)
			}
		})
	}
}

func TestSocket(t *testing.T) {
	t.Run("only its owner may open it", func(t *testing.T) {
		_, path := serve(t, inEffect())
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	})
	t.Run("it replaces the socket of a killed process", func(t *testing.T) {
		path := SocketPath(t.TempDir())
		old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		old.SetUnlinkOnClose(false)
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := NewClient(path).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no smartnatd runs") {
			t.Errorf("an old socket: %v", err)
		}
		log, _ := test.NewNullLogger()
		s := NewServer(Options{Daemon: inEffect(), Log: log, Traffic: func(context.Context) meter.Reading { return meter.Reading{} }, Pair: func() *ha.Status { return nil }, Announced: func() *announce.Status { return nil }})
		if err := s.Listen(path); err != nil {
			t.Fatal(err)
		}
		if _, err := NewClient(path).Status(t.Context()); err != nil {
			t.Error(err)
		}
		s.Close()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	t.Run("a folder that is absent", func(t *testing.T) {
		log, _ := test.NewNullLogger()
		path := filepath.Join(t.TempDir(), "absent", "s")
		if err := NewServer(Options{Daemon: inEffect(), Log: log}).Listen(path); err == nil {
			t.Error("it listens")
		}
		if _, err := NewClient(path).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no smartnatd runs") {
			t.Errorf("no socket: %v", err)
		}
	})
}

// TestPair expects the pair in the status and on its own, and nothing of it without one.
func TestPair(t *testing.T) {
	client, _ := serve(t, inEffect())
	if s, err := client.Pair(t.Context()); s != nil || err != nil {
		t.Errorf("without a pair: %+v, %v", s, err)
	}
	o := options(inEffect())
	o.Pair = func() *ha.Status { return &ha.Status{Own: ha.Facts{Role: ha.Notified{Role: ha.Backup}}} }
	client = listen(t, o)
	if s, err := client.Pair(t.Context()); err != nil || s == nil || s.Own.Role.Role != ha.Backup {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := client.Status(t.Context()); err != nil || s.Pair == nil || s.Pair.Own.Role.Role != ha.Backup {
		t.Errorf("status: %+v, %v", s.Pair, err)
	}
}

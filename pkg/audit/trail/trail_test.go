// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package trail

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/audit"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/logging"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// report returns a report with n ports, from 1 on, of the Mapping web in each namespace, each with an address of its own.
func report(n int, namespaces ...string) *finding.Report {
	r := &finding.Report{}
	for i, namespace := range namespaces {
		r.Snapshot.Mappings = append(r.Snapshot.Mappings, &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "kubectl-edit", Operation: metav1.ManagedFieldsOperationUpdate, Time: &metav1.Time{Time: at.Add(-time.Minute)}},
		}}})
		for port := range n {
			f := gatewaytest.Forward(netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + i)}), gateway.TCP, uint16(1+port), uint16(1+port))
			f.Owner = namespace + "/web"
			r.State.Forwards = append(r.State.Forwards, f)
		}
	}
	return r
}

// logged runs a Trail until it is idle, and returns its lines without the level.
func logged(t *testing.T, format string, follow func(*Trail)) []string {
	t.Helper()
	var out bytes.Buffer
	log, err := logging.New(logging.Options{Level: "info", Format: format}, &out)
	if err != nil {
		t.Fatal(err)
	}
	run(t, New(Options{Log: log}), follow)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for i, line := range lines {
		if _, rest, found := strings.Cut(line, " level="); found {
			lines[i] = "level=" + rest
		}
	}
	return lines
}

// run lets follow work and ends the Trail, which then writes all.
func run(t *testing.T, trail *Trail, follow func(*Trail)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	follow(trail)
	trail.Run(ctx)
}

func TestLines(t *testing.T) {
	pinned := report(2, "shop")
	pinned.State.Forwards[0] = gatewaytest.With(pinned.State.Forwards[0], func(f *gateway.Forward) {
		f.AllowedBy = &gateway.Allowance{Grant: "web", Pin: "pinnedGrants[0]"}
		f.Sources = gatewaytest.Prefixes("10.0.0.0/8", "203.0.113.0/24")
	})
	pinned.State.Forwards[1] = gatewaytest.With(pinned.State.Forwards[1], func(f *gateway.Forward) {
		f.Ports = gateway.PortRange{First: 20000, Last: 29999}
		for i := range 10 {
			f.Sources = append(f.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
		}
	})
	denied := report(0, "shop")
	denied.Refused = []finding.Refused{
		{Owner: "shop/web", Reason: finding.ReasonInvalid},
		{Owner: "shop/web", Reason: finding.ReasonNotGranted, Frontend: gateway.Frontend{Address: netip.MustParseAddr("2001:db8::10"), Protocol: gateway.UDP, Ports: gateway.Port(53)}},
	}
	leaving := report(0, "shop")
	leaving.State.Egresses = []gateway.Egress{{Address: netip.MustParseAddr("198.51.100.10"), Owner: "shop/web"}}
	conflict := report(0, "shop")
	conflict.Findings = []finding.Finding{{Namespace: "shop", Name: "web", Reason: finding.ReasonEgressConflict, Field: "spec.egress"}}
	got := logged(t, "text", func(trail *Trail) {
		for i, r := range []*finding.Report{report(0), report(0), pinned, pinned, denied, leaving, report(0, "shop"), conflict} {
			trail.Follow(r, at.Add(time.Duration(i)*time.Second))
		}
	})
	const by = `manager=kubectl-edit mapping=shop/web operation=Update`
	want := []string{
		`level=info msg="auditing changes from here on" audit=base frontends=0 refused=0`,
		`level=info msg="opened frontend" address=198.51.100.10 at="2026-01-02T03:04:07Z" audit=opened grant=web ` + by +
			` pin="pinnedGrants[0]" port=1 protocol=tcp reason=Requested sources="10.0.0.0/8,203.0.113.0/24" written="2026-01-02T03:03:05Z"`,
		`level=info msg="opened frontend" address=198.51.100.10 at="2026-01-02T03:04:07Z" audit=opened grant= ` + by + ` port=20000-29999 protocol=tcp reason=Requested ` +
			`sources="10.0.0.0/16,10.1.0.0/16,10.2.0.0/16,10.3.0.0/16,10.4.0.0/16,10.5.0.0/16,10.6.0.0/16,10.7.0.0/16,and 2 more" written="2026-01-02T03:03:05Z"`,
		`level=info msg="closed frontend" address=198.51.100.10 at="2026-01-02T03:04:09Z" audit=closed grant=web ` + by +
			` pin="pinnedGrants[0]" port=1 protocol=tcp reason=Invalid written="2026-01-02T03:03:05Z"`,
		`level=info msg="closed frontend" address=198.51.100.10 at="2026-01-02T03:04:09Z" audit=closed grant= ` + by + ` port=20000-29999 protocol=tcp reason=Invalid written="2026-01-02T03:03:05Z"`,
		`level=info msg="refused frontend" at="2026-01-02T03:04:09Z" audit=refused ` + by + ` reason=Invalid written="2026-01-02T03:03:05Z"`,
		`level=info msg="refused frontend" address="2001:db8::10" at="2026-01-02T03:04:09Z" audit=refused ` + by + ` port=53 protocol=udp reason=NotGranted written="2026-01-02T03:03:05Z"`,
		`level=info msg="opened egress" address=198.51.100.10 at="2026-01-02T03:04:10Z" audit=opened egress=true ` + by + ` reason=Requested written="2026-01-02T03:03:05Z"`,
		`level=info msg="closed egress" address=198.51.100.10 at="2026-01-02T03:04:11Z" audit=closed egress=true ` + by + ` reason=Withdrawn written="2026-01-02T03:03:05Z"`,
		`level=info msg="refused egress" at="2026-01-02T03:04:12Z" audit=refused egress=true ` + by + ` reason=EgressConflict written="2026-01-02T03:03:05Z"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestAStartIsOneLine expects no flood at a start, and nothing of a later report of the same.
func TestAStartIsOneLine(t *testing.T) {
	got := logged(t, "text", func(trail *Trail) {
		trail.Follow(report(10_000, "bank", "shop"), at)
		trail.Follow(report(10_000, "bank", "shop"), at)
	})
	if diff := cmp.Diff([]string{`level=info msg="auditing changes from here on" audit=base frontends=20000 refused=0`}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestNoManagerForgesALine lets managers try to add lines and fields.
func TestNoManagerForgesALine(t *testing.T) {
	for name, manager := range map[string]string{
		"a line": "x\nlevel=info msg=\"opened frontend\" address=203.0.113.1", "a field": `x grant=all`, "a quote": `x" grant="all`,
		"an escape": "x\x1b[2J\u009b\u202e\u2028", "very long": strings.Repeat("x ", 1<<20), "no text": "\xff\xfe",
	} {
		t.Run(name, func(t *testing.T) {
			for _, format := range []string{"text", "json"} {
				now := report(1, "shop")
				now.Snapshot.Mappings[0].ManagedFields[0].Manager = manager
				got := logged(t, format, func(trail *Trail) {
					trail.Follow(report(0), at)
					trail.Follow(now, at)
				})
				if len(got) != 2 || len(got[1]) > 1200 || strings.ContainsAny(got[1], "\x1b\u009b\u202e\u2028") {
					t.Fatalf("%s: %d lines, %.2000q", format, len(got), got)
				}
				if format == "json" {
					var fields map[string]string
					if err := json.Unmarshal([]byte(got[1]), &fields); err != nil || fields["grant"] != "" || fields["address"] != "198.51.100.10" {
						t.Errorf("%v, %v", fields, err)
					}
				} else if fields := unquoted(got[1]); fields["grant"] != 1 || fields["address"] != 1 || fields["msg"] != 1 {
					t.Errorf("fields %v in %s", fields, got[1])
				}
			}
		})
	}
}

// unquoted counts the fields of a line by their names, leaving out what is in quotes.
func unquoted(line string) map[string]int {
	var outside strings.Builder
	quoted, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			escaped = false
		case quoted && r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case !quoted:
			outside.WriteRune(r)
		}
	}
	fields := map[string]int{}
	for _, word := range strings.Fields(outside.String()) {
		name, _, _ := strings.Cut(word, "=")
		fields[name]++
	}
	return fields
}

// TestAFloodCostsOnlyItsOwnLines lets one namespace change more than there is room for, before another one changes a port.
func TestAFloodCostsOnlyItsOwnLines(t *testing.T) {
	var out bytes.Buffer
	log, err := logging.New(logging.Options{Level: "info", Format: "text"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]int{}
	trail := New(Options{Log: log, Count: func(r audit.Record) { counted[r.Mapping+" "+string(r.Result)]++ }})
	trail.room = 100
	run(t, trail, func(trail *Trail) {
		trail.Follow(report(0), at)
		trail.Follow(report(80, "mallory"), at)                  // 50 of 80 wait
		trail.Follow(report(80, "mallory", "shop"), at)          // shop gets 25 more
		trail.Follow(report(80, "mallory", "shop", "zebra"), at) // zebra gets 13 more
	})
	lines := map[string]int{}
	var left []string
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if _, rest, found := strings.Cut(line, "audit=lost "); found {
			left = append(left, rest)
			continue
		}
		for _, namespace := range []string{"mallory", "shop", "zebra"} {
			if strings.Contains(line, "mapping="+namespace+"/web") {
				lines[namespace]++
			}
		}
	}
	if diff := cmp.Diff(map[string]int{"mallory": 50, "shop": 25, "zebra": 13}, lines); diff != "" {
		t.Errorf("lines (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"lines=30 namespace=mallory", "lines=55 namespace=shop", "lines=67 namespace=zebra"}, left); diff != "" || trail.Lost() != 30+55+67 {
		t.Errorf("%d left out (-want +got)\n%s", trail.Lost(), diff)
	}
	if diff := cmp.Diff(map[string]int{"mallory/web opened": 80, "shop/web opened": 80, "zebra/web opened": 80}, counted); diff != "" {
		t.Errorf("counted (-want +got)\n%s", diff)
	}
}

// counting counts lines.
type counting struct{ lines atomic.Int64 }

func (c *counting) Write(p []byte) (int, error) {
	c.lines.Add(int64(bytes.Count(p, []byte("\n"))))
	return len(p), nil
}

// TestPace expects that a Trail logs no faster than the journal takes in, waits for more, and loses nothing meanwhile.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &counting{}
		log := logrus.New()
		log.SetOutput(out)
		trail := New(Options{Log: log})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); trail.Run(ctx) }()
		trail.Follow(report(0), at)
		synctest.Wait()
		trail.Follow(report(burst+4*linesPerSecond, "shop"), at)
		var got []string
		for range 3 {
			synctest.Wait()
			got = append(got, fmt.Sprint(out.lines.Load()-1))
			time.Sleep(2*time.Second + time.Millisecond)
		}
		want := []string{fmt.Sprint(burst), fmt.Sprint(burst + 2*linesPerSecond), fmt.Sprint(burst + 4*linesPerSecond)}
		if diff := cmp.Diff(want, got); diff != "" || trail.Lost() != 0 {
			t.Errorf("lines after 0, 2 and 4 s (-want +got)\n%s", diff)
		}
		trail.Follow(report(0, "shop"), at)
		synctest.Wait() // until the lines of the last 2 s are logged
		cancel()        // as many as the journal takes are logged at once, and a line says how many are left out
		<-done
		const before, waiting = burst + 4*linesPerSecond + 2*linesPerSecond, burst + 4*linesPerSecond - 2*linesPerSecond
		if want := int64(1 + before + burst + 1); out.lines.Load() != want || trail.Lost() != waiting-burst {
			t.Errorf("%d lines and %d left out, want %d and %d", out.lines.Load(), trail.Lost(), want, waiting-burst)
		}
	})
}

// TestAnEndLeavesOutNothingInSilence ends a Trail while more lines wait than the journal takes at once.
func TestAnEndLeavesOutNothingInSilence(t *testing.T) {
	got := logged(t, "text", func(trail *Trail) {
		trail.Follow(report(0), at)
		trail.Follow(report(burst+700, "shop"), at)
	})
	opened := 0
	for _, line := range got {
		if strings.Contains(line, "opened frontend") {
			opened++
		}
	}
	if opened != burst {
		t.Errorf("%d lines at the end, want %d", opened, burst)
	}
	if diff := cmp.Diff(`level=warning msg="left out audit lines" audit=lost lines=700 namespace=shop`, got[len(got)-1]); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

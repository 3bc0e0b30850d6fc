// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/flowlog"
	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
)

func TestWho(t *testing.T) {
	ended := func(n int) flows.Record {
		f := openFlows()[0]
		f.Client = netip.AddrPortFrom(f.Client.Addr(), uint16(n))
		f.Start, f.End = began.Add(-time.Duration(n)*time.Hour), began.Add(-time.Duration(n)*time.Hour+time.Minute)
		return flows.NewRecord(f, fmt.Sprintf("old/%d", n), began)
	}
	d := withEgress()
	d.flowLog = "/state/flows.jsonl"
	o := options(d)
	records := 3
	o.FlowLog = func(file string, q flows.Question, each func(flows.Record, bool)) (flowlog.Found, error) {
		if file != d.flowLog {
			return flowlog.Found{}, errors.New(file)
		}
		for n := records; n > 0; n-- {
			r := ended(n)
			if matches, certain := q.Match(r.Flow()); matches {
				each(r, certain)
			}
		}
		return flowlog.Found{Oldest: began, Losses: 4}, nil
	}
	client := listen(t, o)
	seen, outside := netip.MustParseAddrPort("10.10.0.2:6000"), netip.MustParseAddrPort("198.51.100.10:40001")
	for _, tc := range []struct {
		name string
		q    flows.Question
		want []string
	}{
		{"the open one first, then the latest", flows.Question{Seen: seen, Protocol: gateway.TCP}, []string{"40000 shop/db", "1 old/1", "2 old/2", "3 old/3"}},
		{"of UDP", flows.Question{Seen: seen, Protocol: gateway.UDP}, []string{"40000 "}},
		{"a pod", flows.Question{Seen: outside, Protocol: gateway.TCP}, []string{"40001 shop/broken"}},
		{"a pod, at a time, since its start is unknown", flows.Question{Seen: outside, Protocol: gateway.TCP, At: began}, []string{"40001 shop/broken uncertain"}},
		{"at a time", flows.Question{Seen: seen, Protocol: gateway.TCP, At: began.Add(-2*time.Hour + time.Second)}, []string{"2 old/2"}},
		{"still open, and begun before that time", flows.Question{Seen: seen, Protocol: gateway.TCP, At: began.Add(time.Second)}, []string{"40000 shop/db"}},
		{"between two", flows.Question{Seen: seen, Protocol: gateway.TCP, At: began.Add(-30 * time.Minute)}, []string{}},
		{"another port", flows.Question{Seen: netip.MustParseAddrPort("10.10.0.2:6001"), Protocol: gateway.TCP}, []string{}},
	} {
		answer, err := client.ClientsBehind(t.Context(), tc.q)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		got := []string{}
		for _, c := range answer.Clients {
			text := fmt.Sprint(c.Client.Port(), " ", c.Mapping)
			if c.Uncertain {
				text += " uncertain"
			}
			got = append(got, text)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || answer.Total != len(tc.want) || answer.Log.Losses != 4 || answer.Log.File != d.flowLog {
			t.Errorf("%s: %+v (-want +got):\n%s", tc.name, answer, diff)
		}
	}
	records = 5 * maxClients
	answer, err := client.ClientsBehind(t.Context(), flows.Question{Seen: seen, Protocol: gateway.TCP})
	if err != nil || len(answer.Clients) != maxClients || answer.Total != records+1 || !answer.Clients[0].End.IsZero() || answer.Clients[maxClients-1].Mapping != "old/99" {
		t.Errorf("%d of %d: %v", len(answer.Clients), answer.Total, err)
	}
}

func TestWrongWho(t *testing.T) {
	logging := inEffect()
	logging.flowLog = "/state/flows.jsonl"
	for _, tc := range []struct {
		name, seen, at, want string
		daemon               Daemon
	}{
		{"no port", "10.10.0.2", "", "want ADDRESS:PORT as the backend saw it", inEffect()},
		{"no time", "10.10.0.2:1", "now", "at: want a time such as", inEffect()},
		{"nothing is programmed yet", "10.10.0.2:1", "", "programmed nothing yet", &fakeDaemon{}},
		{"a log that cannot be read", "10.10.0.2:1", "", "no log", logging},
	} {
		client, _ := serve(t, tc.daemon)
		err := client.get(t.Context(), whoPath, url.Values{"seen": {tc.seen}, "at": {tc.at}}, new(Clients))
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line with %q", tc.name, err, tc.want)
		}
	}
}

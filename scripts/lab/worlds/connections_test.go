// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/scripts/lab"
)

// TestConnections expects that smartnatd connections lists what clients opened, and leads to the pod that answers them.
func TestConnections(t *testing.T) {
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.objects(t, service(t, "web", []string{"80:8080/TCP", "80:8080/UDP"}, p1), mapping("web", "web", `addresses: [198.51.100.10], ports: [{port: 80}]`),
			mapping("dns", "web", `addresses: [203.0.113.10], ports: [{port: 53, servicePort: 80, protocol: udp}]`))
		w.start(t, twoUplinks)
		awaitEcho(t, w.open(t, lab.Client, "tcp", "198.51.100.10:80", 40001), func(lab.Answer) bool { return true })
		awaitEcho(t, w.open(t, lab.Client2, "udp", "203.0.113.10:53", 40002), func(lab.Answer) bool { return true })
		for _, tc := range []struct {
			args []string
			want map[string]string
		}{
			{nil, map[string]string{lab.ClientAddress + ":40001": "default/web", lab.Client2Address + ":40002": "default/dns"}},
			{[]string{"default/dns"}, map[string]string{lab.Client2Address + ":40002": "default/dns"}},
		} {
			output, err := w.Smartnatd(timeout(t, patience), append([]string{"connections", "-o", "json"}, tc.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			var answer operator.Connections
			if err := json.Unmarshal([]byte(output), &answer); err != nil {
				t.Fatalf("%v:\n%s", err, output)
			}
			if answer.Total != len(tc.want) || len(answer.Connections) != len(tc.want) {
				t.Errorf("%v: %+v, want %v", tc.args, answer, tc.want)
			}
			for _, c := range answer.Connections {
				if tc.want[c.Client.String()] != c.Mapping || c.Backend != netip.MustParseAddrPort(p1.address+":8080") || c.BytesToClient == 0 {
					t.Errorf("%v: %+v, want %v", tc.args, c, tc.want)
				}
			}
		}
	})
}

// TestWho expects the client behind the source that a pod saw: of an open connection, of one that ended, and after a restart.
func TestWho(t *testing.T) {
	w := newWorld(t, "nf_tables")
	w.dataplane = "dataplane: nftables\n"
	w.pods(t, 8080)
	w.objects(t, service(t, "web", []string{"80:8080/UDP"}, p1), mapping("web", "web", `addresses: [198.51.100.10], ports: [{port: 80, protocol: udp}]`))
	config := twoUplinks + "flowLog: {file: /var/lib/smartnat/flows.jsonl}\n"
	w.start(t, config)
	var seen string
	awaitEcho(t, w.open(t, lab.Client, "udp", "198.51.100.10:80", 40001), func(a lab.Answer) bool { seen = a.Client.String(); return true })
	began := time.Now()
	who := func(when string, found bool, says []string, args ...string) error {
		output, err := w.Smartnatd(timeout(t, patience), append([]string{"who", seen + "/udp"}, args...)...)
		if (err == nil) != found {
			return fmt.Errorf("%s: %w\n%s", when, err, output)
		}
		for _, text := range says {
			if !strings.Contains(output, text) {
				return fmt.Errorf("%s: nothing of %q:\n%s", when, text, output)
			}
		}
		t.Log(when, output)
		return nil
	}
	client := lab.ClientAddress + ":40001, to 198.51.100.10:80/udp, Mapping default/web, answered by 10.244.1.2:8080: since 20"
	expect := func(when string, found bool, says []string, args ...string) {
		t.Helper()
		if err := who(when, found, says, args...); err != nil {
			t.Error(err)
		}
	}
	expect("open", true, []string{client, ", open", "the log of ended connections is empty"})
	expect("before it began", false, []string{"no connection with the source"}, "--at", "1h")
	w.gateway(t, "conntrack -D -p udp --orig-port-src 40001")
	await := func(when string, says ...string) {
		t.Helper()
		if err := lab.Poll(timeout(t, patience), func(context.Context) error { return who(when, true, says) }); err != nil {
			t.Error(err)
		}
	}
	await("ended", client, ", until 20", "the log goes back to")
	w.stop(t)
	w.start(t, config)
	await("after a restart", client, "the log has gaps (1)")
	expect("at that time", true, []string{client}, "--at", began.UTC().Format(time.RFC3339Nano))
}

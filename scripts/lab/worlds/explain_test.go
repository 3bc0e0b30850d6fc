// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"cmp"
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/scripts/lab"
)

// TestExplain expects that smartnatd explain says what packets do, with the rules of each data plane and with the kernel's routes.
func TestExplain(t *testing.T) {
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.objects(t,
			service(t, "web", []string{"80:8080/TCP"}, p1, p2), mapping("web", "web", `addresses: [198.51.100.10, "2001:db8:2::10"], ports: [{port: 80}]`),
			mapping("closed", "web", `addresses: [203.0.113.10], allowedSources: [192.0.2.10/32], ports: [{port: 81, servicePort: 80}]`),
			service(t, "empty", []string{"80:8080/TCP"}), mapping("empty", "empty", `addresses: [203.0.113.10], ports: [{port: 82, servicePort: 80}]`),
			mapping("away", "web", `addresses: [203.0.113.99], ports: [{port: 80}]`))
		w.start(t, twoUplinks)
		for _, tc := range []struct {
			name, host, from, to string
			verdict              explain.Verdict
			says                 []string
		}{
			{"forwarded", lab.Client, lab.ClientAddress, "198.51.100.10:80", explain.Forwarded, []string{"Mapping default/web", "by eth1, next hop 198.51.100.1"}},
			{"IPv6", lab.Client, lab.ClientAddress6, "[2001:db8:2::10]:80", explain.Forwarded, []string{"by eth2, next hop 2001:db8:2::1"}},
			{"allowed", lab.Client, lab.ClientAddress, "203.0.113.10:81", explain.Forwarded, []string{"allowed by 192.0.2.10/32", "by eth2, next hop 203.0.113.1"}},
			{"not allowed", lab.Client2, lab.Client2Address, "203.0.113.10:81", explain.Dropped, []string{"add " + lab.Client2Address + "/32"}},
			{"no endpoints", lab.Client, lab.ClientAddress, "203.0.113.10:82", explain.Rejected, []string{"no endpoint"}},
			{"no Mapping", lab.Client, lab.ClientAddress, "203.0.113.10:83", explain.Local, []string{"no Mapping has"}},
			{"elsewhere", lab.Client, lab.ClientAddress, "203.0.113.99:80", explain.Elsewhere, []string{"Mapping default/away"}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				_, err := w.ask(t.Context(), tc.host, "tcp", tc.to)
				reached := err == nil
				if reached != (tc.verdict == explain.Forwarded) {
					t.Errorf("the connection: %v", err)
				}
				output, _ := w.Smartnatd(timeout(t, patience), "explain", tc.from, tc.to) // it fails if the connection does not get through
				for _, text := range tc.says {
					if !strings.Contains(output, text) {
						t.Errorf("smartnatd explain %s %s says nothing of %q:\n%s", tc.from, tc.to, text, output)
					}
				}
				output, _ = w.Smartnatd(timeout(t, patience), "explain", tc.from, tc.to, "-o", "json")
				var answer explain.Answer
				if err := json.NewDecoder(strings.NewReader(output)).Decode(&answer); err != nil {
					t.Fatalf("%v:\n%s", err, output)
				}
				if answer.Verdict != tc.verdict || len(answer.Connections) > 0 != reached {
					t.Errorf("verdict %s with connections %v, want %s, as packets do", answer.Verdict, answer.Connections, tc.verdict)
				}
			})
		}
		status, err := w.Smartnatd(timeout(t, patience), "status")
		if err != nil {
			t.Error(err)
		}
		for _, line := range []string{", in effect", "default/web     yes", "default/empty   no", "default/away    elsewhere"} {
			if !strings.Contains(status, line) {
				t.Errorf("smartnatd status says nothing of %q:\n%s", line, status)
			}
		}
		t.Log(status)
		output, _ := w.Smartnatd(timeout(t, patience), "status", "-o", "json")
		var counted operator.Status
		if err := json.Unmarshal([]byte(output), &counted); err != nil {
			t.Fatalf("%v:\n%s", err, output)
		}
		for _, m := range counted.Mappings {
			carried := cmp.Or(m.Traffic, &operator.Traffic{})
			want := map[string]uint64{"web": 2, "closed": 1}[m.Name]
			if carried.Connections != want || carried.BytesToClients > 0 != (want > 0) {
				t.Errorf("%s: %+v, want %d connections", m.Name, carried, want)
			}
			// Only the rules of nftables count what they refuse.
			dropped, rejected := m.Name == "closed" && w.dataplane != "", m.Name == "empty" && w.dataplane != ""
			if ptr.Deref(carried.Dropped, 0) > 0 != dropped || ptr.Deref(carried.Rejected, 0) > 0 != rejected {
				t.Errorf("%s: dropped %d, rejected %d packets", m.Name, ptr.Deref(carried.Dropped, 0), ptr.Deref(carried.Rejected, 0))
			}
		}
	})
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// TestIPVSOnTheGateway has virtual servers of IPVS (keepalived, kube-proxy) on ports of the same addresses next to Mappings: both answer, flows of
// both survive a stop and a start, and `smartnatd cleanup` leaves IPVS as it is.
func TestIPVSOnTheGateway(t *testing.T) {
	testenv.RequireTool(t, "ipvsadm")
	eachVariant(t, func(t *testing.T, w *world) {
		gateway := w.Host(lab.Gateway)
		if output, err := gateway.Exec(timeout(t, patience), "ipvsadm", "-Ln"); err != nil {
			if strings.Contains(output, "Protocol not available") {
				testenv.Lacks(t, "IPVS")
			}
			t.Fatal(err)
		}
		w.pods(t, 8080)
		for _, pair := range [][2]string{{lab.External1, p2.address}, {lab.External2, p2.address}, {lab.External1v6, p2.address6}, {lab.External2v6, p2.address6}} {
			virtual := lab.Join(pair[0], 9090)
			w.gateway(t, "ipvsadm -A -t "+virtual+" -s rr")
			w.gateway(t, "ipvsadm -a -t "+virtual+" -r "+lab.Join(pair[1], 8080)+" -m")
		}
		// As keepalived and kube-proxy set it.
		w.gateway(t, "sysctl -qw net.ipv4.vs.conntrack=1 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
		w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 9090), by(p2, 8080))
		before := w.gateway(t, "ipvsadm -Sn")

		w.objects(t, service(t, "echo", []string{"8080/TCP"}, p1), mapping("echo", "echo",
			`addresses: [198.51.100.10, 203.0.113.10, "2001:db8:1::10", "2001:db8:2::10"], ports: [{port: 8080}]`))
		w.start(t, twoUplinks)
		var mapped, virtual []*lab.Flow
		for _, external := range []string{lab.External1, lab.External2, lab.External1v6, lab.External2v6} {
			w.await(t, lab.Client, "tcp", lab.Join(external, 8080), by(p1, 8080))
			w.await(t, lab.Client, "tcp", lab.Join(external, 9090), by(p2, 8080))
			mapped = append(mapped, w.open(t, lab.Client, "tcp", lab.Join(external, 8080), 0))
			virtual = append(virtual, w.open(t, lab.Client, "tcp", lab.Join(external, 9090), 0))
		}
		w.stop(t)
		w.start(t, twoUplinks)
		for i := range mapped {
			awaitEcho(t, mapped[i], by(p1, 8080))
			awaitEcho(t, virtual[i], by(p2, 8080))
		}
		w.stop(t)
		if output, err := w.Smartnatd(timeout(t, patience), "cleanup"); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		if after := w.gateway(t, "ipvsadm -Sn"); after != before {
			t.Errorf("IPVS has\n%s\nand had\n%s", after, before)
		}
		w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 9090), by(p2, 8080))
	})
}

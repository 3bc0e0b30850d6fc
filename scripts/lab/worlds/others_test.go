// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package worlds

import (
	"fmt"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestSendersLookedUpByMark sets src_valid_mark, as Tailscale from 1.98 and wg-quick do (tailscale/tailscale#19796): a strict reverse path
// filter on the link to the pods then looks up the sender of a reply, which carries its uplink's mark, in that uplink's table.
func TestSendersLookedUpByMark(t *testing.T) {
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.gateway(t, "sysctl -qw net.ipv4.conf.all.rp_filter=0")
		w.gateway(t, "sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
		w.objects(t, service(t, "echo", []string{"8080/TCP"}, p1),
			mapping("echo", "echo", `addresses: [198.51.100.10, 203.0.113.10], ports: [{port: 8080}]`))
		w.start(t, twoUplinks)
		for _, mark := range []string{"0", "1", "0", "1"} {
			w.gateway(t, "sysctl -qw net.ipv4.conf.all.src_valid_mark="+mark)
			for _, address := range []string{lab.External1, lab.External2} {
				w.await(t, lab.Client, "tcp", lab.Join(address, 8080), by(p1, 8080))
			}
		}
	})
}

// TestBlockLists checks that an administrator's own block list works before SmartNat translates. One in FORWARD comes too late: a rule
// above it accepts mapped packets.
func TestBlockLists(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 8080, 8081)
		w.objects(t, service(t, "echo", []string{"8080/UDP", "8081/UDP"}, p1),
			mapping("echo", "echo", `addresses: [198.51.100.10], ports: [{port: 8080, protocol: udp}, {port: 8081, protocol: udp}]`))
		w.start(t, twoUplinks)
		blocked, answering := lab.Join(lab.External1, 8080), lab.Join(lab.External1, 8081)
		w.gateway(t, "iptables -A FORWARD -s "+lab.ClientAddress+" -j DROP")
		w.await(t, lab.Client, "udp", blocked, by(p1, 8080))
		w.gateway(t, "iptables -t raw -A PREROUTING -s "+lab.ClientAddress+" -p udp --dport 8080 -j DROP")
		w.expectUnreached(t, []string{answering}, func() {
			if answer, err := w.ask(timeout(t, patience), lab.Client, "udp", blocked); err == nil {
				t.Errorf("answered by %+v", answer)
			}
		})
	})
}

// TestDroppingBaseChain checks that check reports a base chain of another program in the forward hook that drops packets which iptables
// accepted, with a rule that helps.
func TestDroppingBaseChain(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.objects(t, service(t, "echo", []string{"8080/TCP"}, p1),
			mapping("echo", "echo", fmt.Sprintf(`addresses: [%s, %q], ports: [{port: 8080}]`, lab.External1, lab.External1v6)))
		w.start(t, twoUplinks)
		if err := w.Host(lab.Gateway).WriteFile("/etc/fw.nft",
			"table inet fw { chain forward { type filter hook forward priority 0; policy drop; ct state established accept; }; }\n"); err != nil {
			t.Fatal(err)
		}
		w.gateway(t, "nft -f /etc/fw.nft")
		for _, external := range []string{lab.External1, lab.External1v6} {
			if answer, err := w.ask(timeout(t, patience), lab.Client, "tcp", lab.Join(external, 8080)); err == nil {
				t.Errorf("answer %+v, so the chain does not drop and the test proves nothing", answer)
			}
		}
		const remedy = "nft insert rule inet fw forward ct mark and 0x10 == 0x10 accept"
		w.awaitCheck(t, "chain forward of table inet fw drops what is forwarded for Mappings, as an accept in iptables does not count there: "+remedy, true)
		w.gateway(t, remedy)
		for _, external := range []string{lab.External1, lab.External1v6} {
			w.await(t, lab.Client, "tcp", lab.Join(external, 8080), by(p1, 8080))
		}
		w.awaitCheck(t, "nftables", false)
	})
}

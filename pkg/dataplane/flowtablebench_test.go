// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// BenchmarkFlowtable compares how fast the kernel forwards small datagrams of one established flow: by plain routing without conntrack,
// by our rules, and past them. pktgen hands the packets to the link on which they come in, and the other end of the link to the pod
// drops them, so that only the forwarding takes time. Each result is the best of many turns, since other programs disturb them.
func BenchmarkFlowtable(b *testing.B) {
	// Errors show as a missing file.
	_ = exec.Command("modprobe", "pktgen").Run()
	if _, err := os.Stat("/proc/thread-self/net/pktgen/pgctrl"); err != nil {
		testenv.Lacks(b, "pktgen")
	}
	plain := 0.0
	for _, row := range []struct {
		name string
		new  func(t testing.TB) backend
	}{
		{"plain routing", nil},
		{"nftables", func(t testing.TB) backend { return newNFTables(t, false) }},
		{"nftables with a flowtable", newFlowtable},
	} {
		b.Run(row.name, func(b *testing.B) {
			testenv.NewNetNS(b)
			connectAll(b)
			to := "10.244.1.2:8080"
			var flows bool
			if row.new != nil {
				to = "198.51.100.10:80"
				backend := row.new(b)
				_, flows = backend.(flowtableBackend)
				f := forward("198.51.100.10", 80, "10.244.1.2")
				f.Protocol = gateway.UDP
				state := gateway.State{Forwards: []*gateway.Forward{f}, Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24")}}}
				if _, err := newHost(b, backend).start().Apply(b.Context(), state); err != nil {
					b.Fatal(err)
				}
			} else if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
				b.Fatal(err)
			}
			establish(b, to, flows)
			dropAll(b)
			best := 0.0
			for b.Loop() {
				for range turns {
					best = max(best, inject(b, "eth1", to))
				}
			}
			b.ReportMetric(best, "packets/s")
			if row.new == nil {
				plain = best
			} else if plain > 0 {
				b.ReportMetric(best/plain, "of-plain-routing")
			}
		})
	}
}

const (
	benchPort = 40000
	// turns is the minimum number of turns.
	turns = 20
)

// establish exchanges datagrams between client and pod until conntrack, if the flow is tracked, considers it assured, and until it
// is in the flowtable if flows is set.
func establish(b *testing.B, to string, flows bool) {
	b.Helper()
	testenv.In(b, "pod1", func() error {
		pod, err := net.ListenPacket("udp4", ":8080")
		if err != nil {
			return err
		}
		b.Cleanup(func() { pod.Close() })
		go func() {
			buffer := make([]byte, 100)
			for {
				n, from, err := pod.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = pod.WriteTo(buffer[:n], from)
			}
		}()
		return nil
	})
	var client net.Conn
	testenv.In(b, "client", func() (err error) {
		client, err = (&net.Dialer{LocalAddr: &net.UDPAddr{Port: benchPort}}).Dial("udp4", to)
		return err
	})
	defer client.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		if err := client.SetDeadline(time.Now().Add(time.Second)); err != nil {
			b.Fatal(err)
		}
		_, err := client.Write([]byte("hello"))
		if err == nil {
			_, err = client.Read(make([]byte, 100))
		}
		table, _ := exec.Command("conntrack", "-L", "-p", "udp").CombinedOutput()
		want := map[bool]string{true: "[OFFLOAD]", false: "[ASSURED]"}[flows]
		if err == nil && (strings.HasPrefix(to, "10.244.") || strings.Contains(string(table), want)) {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("no established flow: %v\n%s", err, table)
		}
	}
}

// dropAll drops the datagrams that the pod gets, as early as possible, and no request for its hardware address.
func dropAll(b *testing.B) {
	b.Helper()
	testenv.In(b, "pod1", func() error {
		drop := exec.Command("nft", "-f", "-")
		drop.Stdin = strings.NewReader("table netdev bench {\n chain c {\n type filter hook ingress device eth0 priority -500\n ether type ip drop\n }\n}\n")
		out, err := drop.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// forwarded returns the number of packets that left by the link of the pod.
func forwarded(b *testing.B) uint64 {
	b.Helper()
	l, err := netlink.LinkByName("pod1")
	if err != nil {
		b.Fatal(err)
	}
	return l.Attrs().Statistics.TxPackets
}

var pktgenResult = regexp.MustCompile(`(\d+)pps`)

// inject has pktgen receive datagrams on a link, and returns the packets per second.
func inject(b *testing.B, link, to string) float64 {
	b.Helper()
	const perTurn = 2000
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.InterfaceByName(link)
	if err != nil {
		b.Fatal(err)
	}
	write := func(file string, lines ...string) {
		for _, line := range lines {
			if err := os.WriteFile("/proc/thread-self/net/pktgen/"+file, []byte(line+"\n"), 0); err != nil {
				b.Fatalf("%s: %s: %v", file, line, err)
			}
		}
	}
	write("kpktgend_0", "rem_device_all", "add_device "+link)
	write(link, "xmit_mode netif_receive", fmt.Sprintf("count %d", perTurn), "delay 0", "pkt_size 60",
		"dst_mac "+l.HardwareAddr.String(), "dst "+host, "src_min 198.51.100.50", "src_max 198.51.100.50",
		fmt.Sprintf("udp_src_min %d", benchPort), fmt.Sprintf("udp_src_max %d", benchPort), "udp_dst_min "+port, "udp_dst_max "+port)
	sent := forwarded(b)
	write("pgctrl", "start")
	if n := forwarded(b) - sent; n < perTurn {
		b.Errorf("the pod got %d of %d packets", n, perTurn)
	}
	text, err := os.ReadFile("/proc/thread-self/net/pktgen/" + link)
	if err != nil {
		b.Fatal(err)
	}
	found := pktgenResult.FindSubmatch(text)
	if found == nil {
		b.Fatalf("no result:\n%s", text)
	}
	rate, _ := strconv.ParseFloat(string(found[1]), 64)
	return rate
}

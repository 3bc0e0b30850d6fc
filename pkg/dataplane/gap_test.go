// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestKernelChangesLeaveNoGap edits a Mapping whose clients never pause. Each of them is allowed by all versions, so the first
// datagram of each flow reaches a pod.
func TestKernelChangesLeaveNoGap(t *testing.T) {
	onNetworks(t, func(t *testing.T, h *host, n network) {
		version := func(last uint16, sources ...netip.Prefix) gateway.State {
			f := forward(n.external, 80, n.pod1, n.pod2)
			f.Protocol, f.Ports.Last = gateway.UDP, last
			if len(sources) > 0 {
				f.Sources = slices.Concat(sources, prefixes(n.connected))
				slices.SortFunc(f.Sources, func(a, b netip.Prefix) int {
					return strings.Compare(string(a.Addr().AsSlice()), string(b.Addr().AsSlice()))
				})
			}
			return gateway.State{
				Forwards: []*gateway.Forward{f},
				Uplinks:  []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes(n.connected)}},
			}
		}
		others := func(first int) (list []netip.Prefix) {
			for i := range 300 {
				a := addr("10.200.0.0").As4()
				if addr(n.external).Is6() {
					list = append(list, netip.MustParsePrefix(fmt.Sprintf("2001:db8:c8::%x/128", 2*(first+i))))
					continue
				}
				a[2], a[3] = byte((first+i)/100), byte(2*((first+i)%100))
				list = append(list, netip.PrefixFrom(netip.AddrFrom4(a), 32))
			}
			return list
		}
		d := h.start()
		apply(t, d, version(80))
		stop := make(chan struct{})
		flows, lost := 0, error(nil)
		ended := testenv.Go(t, func() {
			lost = testenv.InNetNS("client", func() error {
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					if err := flow(net.JoinHostPort(n.external, "80")); err != nil {
						return err
					}
					flows++
				}
			})
		})
		for range 3 {
			for _, state := range []gateway.State{
				version(80, others(0)...), version(80, others(150)...), version(99), version(89, others(0)...), version(80), version(85), version(95, others(200)...),
				version(95), version(95, others(0)...), version(95, others(150)...),
			} {
				apply(t, d, state)
			}
		}
		close(stop)
		<-ended
		if lost != nil || flows == 0 {
			t.Errorf("after %d flows: %v", flows, lost)
		}
	})
}

// flow exchanges the first datagram of a new flow.
func flow(address string) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, "who"); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 100))
	return err
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestListenersAreSeenWithoutAnEvent: the kernel sends no event when a program starts to listen.
func TestListenersAreSeenWithoutAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		ssh := gateway.Listener{Protocol: gateway.TCP, Address: netip.IPv4Unspecified(), Port: 2222}
		f.host.setListeners(ssh)
		f.expect(t, 5*time.Second, "apply")
		f.expect(t, 5*time.Second) // nothing new
		f.host.setListeners()
		f.expect(t, 5*time.Second, "apply")
		f.host.setListeners(ssh)
		f.Enqueue() // an apply reads the listeners first
		f.expect(t, 1100*time.Millisecond, "apply")
		f.expect(t, 5*time.Second)
		if n := f.host.observed(); n != 1 {
			t.Errorf("the host was observed %d times, want once: only listeners changed", n)
		}
	})
}

// TestOtherRulesAreSeenWithoutAnEvent: kube-proxy may start, and take ports, long after smartnatd.
func TestOtherRulesAreSeenWithoutAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		f.host.setOthers(gateway.OtherRules{ServiceProxy: "kube-proxy (nftables)"})
		f.expect(t, 5*time.Second, "apply")
		f.expect(t, 5*time.Second) // nothing new
		f.host.setOthers(gateway.OtherRules{ServiceProxy: "kube-proxy (nftables)", Claims: []gateway.Claim{{Protocol: gateway.TCP, Ports: gateway.Port(30080)}}})
		f.expect(t, 5*time.Second, "apply")
		if n := f.host.observed(); n != 1 {
			t.Errorf("the host was observed %d times, want once: only rules of other programs changed", n)
		}
	})
}

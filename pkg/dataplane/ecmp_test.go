// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"bufio"
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

const (
	manyGateways    = 4
	manySessions    = 24 // of each family
	sharedExternal  = "203.0.113.10"
	sharedExternal6 = "2001:db8:a::10"
)

// TestSessionsMoveBetweenGateways counts the sessions that are lost when one of four gateways behind a router with ECMP goes and comes
// back. None is lost if endpoints are chosen by a consistent hash and both routers share connections by the client. A resilient next-hop
// group saves those of the gateways that stay. Otherwise the router moves them too, and they end.
func TestSessionsMoveBetweenGateways(t *testing.T) {
	for _, tc := range []struct {
		name string
		many manySetup
		// ownLost and othersLost say whether sessions of the gateway that goes, and of those that stay, are lost.
		ownLost, othersLost bool
	}{
		{"maglev", manySetup{consistent: true}, false, false},
		{"random", manySetup{}, true, true},
		{"masqueraded", manySetup{masquerade: true}, true, true},
		{"masqueraded, maglev", manySetup{masquerade: true, consistent: true}, true, true},
		{"masqueraded, resilient", manySetup{masquerade: true, resilient: true}, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.RequireTool(t, "ip")
			testenv.NewNetNS(t)
			manyRouters(t)
			if tc.many.resilient {
				resilientHops(t)
			}
			tc.many.share(t, manyGateways)
			for i := 1; i <= manyGateways; i++ {
				startOneOfMany(t, i, tc.many)
			}
			var sessions []*session
			for i := range 2 * manySessions {
				s := openSession(t, []string{sharedExternal, sharedExternal6}[i%2])
				if s.pod = s.ask(10 * time.Second); s.pod == "" {
					t.Fatalf("a new session to %s has no answer", s.RemoteAddr())
				}
				sessions = append(sessions, s)
			}
			for _, gateways := range []int{manyGateways - 1, manyGateways} {
				tc.many.share(t, gateways)
				var own, others struct{ lost, all int }
				for _, s := range sessions {
					if s.pod == "" {
						continue
					}
					counted, dies := &others, tc.othersLost
					if gateways < manyGateways && s.via(manyGateways) {
						counted, dies = &own, tc.ownLost
					}
					patience := 10 * time.Second
					if dies {
						patience = 300 * time.Millisecond // most of them never answer again
					}
					counted.all++
					if s.ask(patience) != s.pod {
						s.pod = ""
						counted.lost++
					}
				}
				t.Logf("%d gateways: lost %d of %d sessions of the gateway that went, %d of %d others", gateways, own.lost, own.all, others.lost, others.all)
				if !tc.ownLost && own.lost > 0 || !tc.othersLost && others.lost > 0 {
					t.Error("sessions are lost that should live")
				}
				if gateways < manyGateways && tc.othersLost && others.lost < others.all/8 {
					t.Error("hardly any session of the other gateways moved")
				}
				if tc.many.masquerade && own.lost < own.all {
					t.Error("a masqueraded session lives on without its gateway")
				}
			}
		})
	}
}

// manySetup is how gateways and their router are set up.
type manySetup struct {
	// consistent is the choice of endpoints, masquerade hides clients behind each gateway, and resilient is the router's next-hop group.
	consistent, masquerade, resilient bool
}

// share shares connections among the first gateways.
func (m manySetup) share(t *testing.T, gateways int) {
	t.Helper()
	if !m.resilient {
		route(t, gateways)
		return
	}
	for group, first := range map[int]int{10: 1, 20: 11} {
		var hops []string
		for i := range gateways {
			hops = append(hops, fmt.Sprint(first+i))
		}
		run(t, "ip", fmt.Sprintf("nexthop replace id %d group %s type resilient buckets 128 idle_timer 60 unbalanced_timer 0", group, strings.Join(hops, "/")))
	}
	run(t, "ip", "route replace "+sharedExternal+" nhid 10")
	run(t, "ip", "-6 route replace "+sharedExternal6+" nhid 20")
}

// resilientHops adds the next hops of resilient groups: 1 and up for IPv4, 11 and up for IPv6.
func resilientHops(t *testing.T) {
	t.Helper()
	run(t, "ip", "route del "+sharedExternal)
	run(t, "ip", "-6 route del "+sharedExternal6)
	for i := 1; i <= manyGateways; i++ {
		run(t, "ip", fmt.Sprintf("nexthop add id %d via 198.51.%d.2 dev gw%d", i, i, i))
		run(t, "ip", fmt.Sprintf("nexthop add id %d via 2001:db8:1:%d::2 dev gw%d", 10+i, i, i))
	}
}

// manyRouters makes this namespace the router outside, with a client and four gateways, and the namespace inside the router to
// the pods.
func manyRouters(t testing.TB) {
	t.Helper()
	connect(t, "client", "cl0", []string{"192.0.2.1/24", "2001:db8:c::1/64"}, []string{"192.0.2.10/24", "2001:db8:c::10/64"})
	for i := 1; i <= manyGateways; i++ {
		connect(t, fmt.Sprintf("gw%d", i), fmt.Sprintf("gw%d", i),
			[]string{fmt.Sprintf("198.51.%d.1/30", i), fmt.Sprintf("2001:db8:1:%d::1/64", i)}, []string{fmt.Sprintf("198.51.%d.2/30", i), fmt.Sprintf("2001:db8:1:%d::2/64", i)})
	}
	run(t, "ip", "netns add inside")
	t.Cleanup(func() { run(t, "ip", "netns del inside") })
	run(t, "ip", "-n inside link set lo up")
	for i := 1; i <= manyGateways; i++ {
		gw := fmt.Sprintf("gw%d", i)
		run(t, "ip", fmt.Sprintf("-n inside link add %s type veth peer name in0 netns %s", gw, gw))
		for _, at := range []string{
			fmt.Sprintf("-n inside addr add 10.10.%d.1/30 dev %s", i, gw), fmt.Sprintf("-n inside addr add fd00:10:%d::1/64 dev %s nodad", i, gw),
			fmt.Sprintf("-n %s addr add 10.10.%d.2/30 dev in0", gw, i), fmt.Sprintf("-n %s addr add fd00:10:%d::2/64 dev in0 nodad", gw, i),
			"-n inside link set " + gw + " up", "-n " + gw + " link set in0 up",
			fmt.Sprintf("-n %s route add 10.244.0.0/16 via 10.10.%d.1", gw, i), fmt.Sprintf("-n %s route add fd00:244::/32 via fd00:10:%d::1", gw, i),
			"-n " + gw + " addr add " + sharedExternal + "/32 dev lo", "-n " + gw + " addr add " + sharedExternal6 + "/128 dev lo nodad",
		} {
			run(t, "ip", at)
		}
	}
	// The pods have a host of their own: the kernel shares connections that it opens or answers itself by another hash.
	run(t, "ip", "netns add pods")
	t.Cleanup(func() { run(t, "ip", "netns del pods") })
	for _, args := range []string{
		"-n pods link set lo up", "-n inside link add pods type veth peer name eth0 netns pods", "-n inside link set pods up", "-n pods link set eth0 up",
		"-n inside addr add 10.244.1.1/24 dev pods", "-n inside addr add fd00:244::1/64 dev pods nodad",
		"-n pods addr add 10.244.1.99/24 dev eth0", "-n pods addr add fd00:244::99/64 dev eth0 nodad",
		"-n pods route add default via 10.244.1.1", "-n pods route add default via fd00:244::1",
	} {
		run(t, "ip", args)
	}
	for n := 2; n <= 5; n++ {
		for _, pod := range []string{fmt.Sprintf("10.244.1.%d", n), fmt.Sprintf("fd00:244::%d", n)} {
			run(t, "ip", fmt.Sprintf("-n pods addr add %s/%d dev eth0 nodad", pod, addr(pod).BitLen()))
			testenv.In(t, "pods", func() error {
				return answer(t, netip.AddrPortFrom(addr(pod), 8080).String(), func(from net.Addr) string {
					host, _, _ := net.SplitHostPort(from.String()) // the client, or the gateway that hides it
					return pod + " " + host
				})
			})
		}
	}
	const bySource, byDestination = "0x15", "0x26" // with the protocol and the port
	shareBy(t, bySource)
	testenv.In(t, "inside", func() error { shareBy(t, byDestination); return nil })
	route(t, manyGateways)
}

// shareBy makes the router of the current namespace share connections by fields of packets (fib_multipath_hash_fields in the
// kernel's ip-sysctl).
func shareBy(t testing.TB, fields string) {
	t.Helper()
	h := newHost(t, nil)
	for _, family := range []string{"ipv4", "ipv6"} {
		h.write(t, "net/"+family+"/fib_multipath_hash_policy", "3")
		h.write(t, "net/"+family+"/fib_multipath_hash_fields", fields)
	}
	h.write(t, "net/ipv4/ip_forward", "1")
	h.write(t, "net/ipv6/conf/all/forwarding", "1")
	h.write(t, "net/ipv4/conf/all/rp_filter", "0")
}

// route shares connections among the first gateways.
func route(t testing.TB, gateways int) {
	t.Helper()
	for destination, hop := range map[string]string{
		"route replace " + sharedExternal: "198.51.%d.2", "-6 route replace " + sharedExternal6: "2001:db8:1:%d::2",
		"-n inside route replace 192.0.2.0/24": "10.10.%d.2", "-n inside -6 route replace 2001:db8:c::/64": "fd00:10:%d::2",
	} {
		for i := 1; i <= gateways; i++ {
			destination += " nexthop via " + fmt.Sprintf(hop, i)
		}
		run(t, "ip", destination)
	}
}

// startOneOfMany applies the State that all gateways have.
func startOneOfMany(t testing.TB, i int, m manySetup) {
	t.Helper()
	s := gateway.State{Uplinks: []gateway.Uplink{{
		Link: "eth0", Number: 1, Connected: prefixes(fmt.Sprintf("198.51.%d.0/30", i), fmt.Sprintf("2001:db8:1:%d::/64", i)),
		Gateways: addrs(fmt.Sprintf("198.51.%d.1", i), fmt.Sprintf("2001:db8:1:%d::1", i)),
	}}}
	for external, pods := range map[string][]string{
		sharedExternal:  {"10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5"},
		sharedExternal6: {"fd00:244::2", "fd00:244::3", "fd00:244::4", "fd00:244::5"},
	} {
		for port, target := range map[uint16]uint16{80: 8080, sinkPort: sinkPort} {
			f := forward(external, port, pods...)
			f.Consistent, f.Masquerade = m.consistent, m.masquerade
			for i := range f.Backends {
				f.Backends[i].Port = target
			}
			s.Forwards = append(s.Forwards, f)
		}
	}
	slices.SortFunc(s.Forwards, func(x, y *gateway.Forward) int { return x.Compare(y.Frontend) })
	testenv.In(t, fmt.Sprintf("gw%d", i), func() error {
		testenv.AwaitLocal(t, sharedExternal6, fmt.Sprintf("fd00:10:%d::2", i))
		h := newHost(t, newNFTables(t, false))
		h.write(t, "net/ipv4/conf/all/rp_filter", "0")
		opts := h.options()
		opts.takeOver = m.consistent
		_, err := opts.dataplane().Apply(t.Context(), s)
		return err
	})
}

// via reports whether a gateway hides the client of the session.
func (s *session) via(i int) bool {
	return strings.HasSuffix(s.pod, fmt.Sprintf(" 10.10.%d.2", i)) || strings.HasSuffix(s.pod, fmt.Sprintf(" fd00:10:%d::2", i))
}

// session is a TCP connection of the client.
type session struct {
	net.Conn
	lines *bufio.Scanner
	// pod is the one that answered, and the address by which it knows the client. It is empty once the session is lost.
	pod string
}

func openSession(t *testing.T, external string) *session {
	t.Helper()
	conn := dial(t, "tcp", external)
	return &session{Conn: conn, lines: bufio.NewScanner(conn)}
}

// ask returns the pod that answers within the patience, or "".
func (s *session) ask(patience time.Duration) string {
	if s.SetDeadline(time.Now().Add(patience)) != nil {
		return ""
	}
	if _, err := s.Write([]byte("who\n")); err != nil || !s.lines.Scan() {
		return ""
	}
	return strings.TrimSpace(s.lines.Text())
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestAskAfterTheLinkWasMadeAgain expects that a link with the same name and another number is asked as before.
func TestAskAfterTheLinkWasMadeAgain(t *testing.T) {
	for range 2 {
		t.Run("", TestAskNeighbours)
		_ = exec.Command("ip", "link", "del", "here0").Run() // it goes with the other end, a moment later
	}
}

// TestAskNeighbours asks a neighbour at the other end of a link in both families, and one that is not there.
func TestAskNeighbours(t *testing.T) {
	testenv.RequireKernel(t)
	for _, line := range []string{
		"ip netns add there", "ip link add here0 type veth peer name there0 netns there", "ip link set here0 up", "ip -n there link set there0 up",
		"ip address add 192.0.2.1/24 dev here0", "ip -6 address add 2001:db8::1/64 dev here0 nodad",
		"ip -n there address add 192.0.2.2/24 dev there0", "ip -n there -6 address add 2001:db8::2/64 dev there0 nodad",
	} {
		fields := strings.Fields(line)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", "there").Run() })
	for _, family := range []struct{ own, there, away string }{{"192.0.2.1", "192.0.2.2", "192.0.2.3"}, {"2001:db8::1", "2001:db8::2", "2001:db8::3"}} {
		a, err := newAsker("here0", netip.MustParseAddr(family.own))
		if err != nil {
			t.Fatal(err)
		}
		heard, ended := make(chan netip.Addr, 16), make(chan error, 1)
		go func() { ended <- a.answers(func(from netip.Addr) { heard <- from }) }()
		deadline := time.After(time.Minute)
		for answered := false; !answered; {
			for _, target := range []string{family.away, family.there} {
				if err := a.ask(netip.MustParseAddr(target)); err != nil {
					t.Logf("the link is not ready: %v", err) // it came up just now
				}
			}
			select {
			case from := <-heard:
				if answered = true; from.String() != family.there {
					t.Errorf("%s answered, want %s", from, family.there)
				}
			case <-time.After(100 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s does not answer", family.there)
			}
		}
		a.close()
		if err := <-ended; err == nil {
			t.Error("the reader ended without an error")
		}
	}
	for link, want := range map[string]string{"away0": "link away0: ", "lo": "link lo: has no Ethernet address"} {
		if _, err := newAsker(link, netip.MustParseAddr("192.0.2.1")); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", link, err)
		}
	}
}

// TestParse expects nothing from packets that are not answers, whatever their length.
func TestParse(t *testing.T) {
	reply := []byte{0, 1, 8, 0, 6, 4, 0, 2, 1, 1, 1, 1, 1, 1, 192, 0, 2, 2, 2, 2, 2, 2, 2, 2, 192, 0, 2, 1, 0, 0}
	if from, ok := parseARP(reply); !ok || from.String() != "192.0.2.2" {
		t.Errorf("ARP: %s, %v", from, ok)
	}
	advertisement := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, netip.MustParseAddr("2001:db8::2").AsSlice()...)
	if from, ok := parseAdvertisement(advertisement); !ok || from.String() != "2001:db8::2" {
		t.Errorf("neighbour discovery: %s, %v", from, ok)
	}
	for n := range arpLen {
		if _, ok := parseARP(reply[:n]); ok {
			t.Errorf("ARP of %d bytes", n)
		}
	}
	for n := range advertisement {
		if _, ok := parseAdvertisement(advertisement[:n]); ok {
			t.Errorf("neighbour discovery of %d bytes", n)
		}
	}
	for _, i := range []int{1, 2, 4, 5, 7} {
		other := append([]byte{}, reply...)
		if other[i]++; i == 7 {
			other[i] = arpRequest
		}
		if _, ok := parseARP(other); ok {
			t.Errorf("ARP with another byte %d", i)
		}
	}
	for i := range 2 {
		other := append([]byte{}, advertisement...)
		other[i]++
		if _, ok := parseAdvertisement(other); ok {
			t.Errorf("neighbour discovery with another byte %d", i)
		}
	}
}

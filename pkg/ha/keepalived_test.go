// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ha

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// advert is a VRRP advert on the wire.
type advert struct {
	from, to      netip.Addr
	ttl, priority byte
	id            int
	addresses     []netip.Addr
}

const vrrpProtocol = 112

// checksum is that of RFC 1071.
func checksum(packet []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(packet); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// packet returns an IP packet with a message of version 3 (RFC 5798, 5.2).
func (a advert) packet() []byte {
	message := []byte{3<<4 | 1, byte(a.id), a.priority, byte(len(a.addresses)), 0, 10, 0, 0}
	for _, v := range a.addresses {
		message = append(message, v.AsSlice()...)
	}
	pseudo := append(a.from.AsSlice(), a.to.AsSlice()...)
	if a.from.Is4() {
		pseudo = append(pseudo, 0, vrrpProtocol)
		pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(message)))
	} else {
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
		pseudo = append(pseudo, 0, 0, 0, vrrpProtocol)
	}
	binary.BigEndian.PutUint16(message[6:], checksum(append(pseudo, message...)))
	var header []byte
	if a.from.Is4() {
		header = []byte{0x45, 0, 0, byte(20 + len(message)), 0, 0, 0, 0, a.ttl, vrrpProtocol, 0, 0}
		header = append(append(header, a.from.AsSlice()...), a.to.AsSlice()...)
		binary.BigEndian.PutUint16(header[10:], checksum(header))
	} else {
		header = []byte{0x60, 0, 0, 0, 0, byte(len(message)), vrrpProtocol, a.ttl}
		header = append(append(header, a.from.AsSlice()...), a.to.AsSlice()...)
	}
	return append(header, message...)
}

// newCable makes a link up0 with the addresses of the first box, in a network of its own, and returns its other end.
func newCable(t *testing.T) wire {
	t.Helper()
	testenv.NewNetNS(t)
	for _, line := range []string{
		"ip link add up0 type veth peer name cable0", "ip link set up0 up", "ip link set cable0 up",
		"ip address add 198.51.100.21/24 dev up0", "ip address add 2001:db8:1::21/64 dev up0 nodad",
		"ip neighbour add 198.51.100.22 dev up0 lladdr 02:00:00:00:00:16", "ip neighbour add 2001:db8:1::22 dev up0 lladdr 02:00:00:00:00:16",
	} {
		fields := strings.Fields(line)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	return newWire(t, "up0", "cable0")
}

// wire sends packets to a link from the other end of its cable.
type wire struct {
	fd   int
	to   net.HardwareAddr
	port int
}

func newWire(t *testing.T, link, end string) wire {
	t.Helper()
	there, err := net.InterfaceByName(end)
	if err != nil {
		t.Fatal(err)
	}
	here, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return wire{fd, here.HardwareAddr, there.Index}
}

func (w wire) send(t *testing.T, a advert) {
	t.Helper()
	protocol := uint16(unix.ETH_P_IPV6)
	if a.from.Is4() {
		protocol = unix.ETH_P_IP
	}
	to := unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol)), Ifindex: w.port, Halen: 6}
	copy(to.Addr[:], w.to)
	if err := unix.Sendto(w.fd, a.packet(), 0, &to); err != nil {
		t.Fatal(err)
	}
}

// ownTTL returns that of the next advert on the link.
func (w wire) ownTTL(t *testing.T, own, peer netip.Addr) byte {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2048)
	pair := append(own.AsSlice(), peer.AsSlice()...)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			t.Fatalf("no advert on the link: %v", err)
		}
		switch packet := buffer[:n]; {
		case own.Is4() && n > 20 && packet[9] == vrrpProtocol && string(packet[12:20]) == string(pair):
			return packet[8]
		case own.Is6() && n > 40 && packet[6] == vrrpProtocol && string(packet[8:40]) == string(pair):
			return packet[7]
		}
	}
}

// TestForgedAdvertsMoveNothing sends a primary adverts with a higher priority: from a stranger, and from the peer's address with the TTL
// of a packet that passed a router. Only the peer's own one behind them counts.
func TestForgedAdvertsMoveNothing(t *testing.T) {
	testenv.RequireKernel(t)
	testenv.RequireTool(t, "keepalived")
	for name, test := range map[string]struct{ stranger, virtual string }{
		"IPv4": {"198.51.100.66", "198.51.100.10"},
		"IPv6": {"2001:db8:1::66", "2001:db8:1::10"},
	} {
		t.Run(name, func(t *testing.T) {
			cable := newCable(t)
			cfg := pair()
			cfg.RuntimeDir = t.TempDir()
			cfg.HA.Links = cfg.HA.Links[:1]
			cfg.HA.Links[0].VirtualAddresses = addrs(test.virtual)
			in := instances(cfg.HA)[0]
			right := advert{from: in.peer, to: in.own, ttl: 255, priority: 252, id: in.id}
			for _, v := range in.virtual {
				right.addresses = append(right.addresses, netip.MustParsePrefix(v).Addr())
			}
			stranger, far := right, right
			stranger.from, stranger.priority = netip.MustParseAddr(test.stranger), 254
			far.ttl, far.priority = 254, 253
			log := runKeepalived(t, cfg.RuntimeDir, func() (string, error) {
				return Keepalived(cfg, Programs{Smartnatd: "/bin/true", Config: "/etc/smartnat.yaml"})
			})
			await(t, log, "Entering MASTER STATE", func() {})
			// The peer checks the same.
			if ttl := cable.ownTTL(t, in.own, in.peer); ttl != 255 {
				t.Errorf("keepalived sends adverts with TTL %d", ttl)
			}
			said := await(t, log, "with higher priority", func() {
				for _, a := range []advert{stranger, far, right} {
					cable.send(t, a)
				}
			})
			if _, first, _ := strings.Cut(said, "Master received advert from "); !strings.HasPrefix(first, in.peer.String()+" with higher priority 252,") {
				t.Errorf("keepalived takes a forged advert:\n%s", said)
			}
		})
	}
}

// runKeepalived returns the path of its log.
func runKeepalived(t *testing.T, dir string, render func() (string, error)) string {
	t.Helper()
	text, err := render()
	if err != nil {
		t.Fatal(err)
	}
	config, log := filepath.Join(dir, "keepalived.conf"), filepath.Join(dir, "log")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	daemon := exec.CommandContext(context.WithoutCancel(t.Context()), "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", config,
		"--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp"))
	daemon.Stdout, daemon.Stderr = to, to
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(unix.SIGTERM) // it ends its child
		_ = daemon.Wait()
	})
	return log
}

// await repeats an action until a log has a text, and returns the log.
func await(t *testing.T, log, want string, act func()) string {
	t.Helper()
	for range 600 {
		act()
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), want) {
			return string(text)
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(log)
	t.Fatalf("keepalived does not say %q:\n%s", want, text)
	return ""
}

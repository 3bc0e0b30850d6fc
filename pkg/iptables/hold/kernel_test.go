// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package hold

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// gap is the time without rules, longer than smartnatd takes to restore them.
const gap = 300 * time.Millisecond

// everything flushes all iptables tables of both back ends.
const everything = `for program in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do
	for table in mangle filter nat; do $program -t $table -F; $program -t $table -X; done
done`

// TestSessionsLiveWithoutRules: in both families, a translated session that keeps sending survives the removal of all rules
// only if a running process or a kept socket holds the table.
func TestSessionsLiveWithoutRules(t *testing.T) {
	for _, tc := range []struct{ name, backend, flush string }{
		{"nft flush ruleset", "nft", "nft flush ruleset"},
		{"all tables of nft flushed", "nft", everything},
		{"all tables of legacy flushed", "legacy", everything},
	} {
		for _, holder := range []string{"smartnatd", "a kept socket", "no process"} {
			t.Run(tc.name+", held by "+holder, func(t *testing.T) {
				newGateway(t)
				held := holder != "no process"
				switch holder {
				case "smartnatd":
					take(t, true)
				case "a kept socket":
					keep(t, take(t, true))
				}
				rules := translation(tc.backend)
				shell(t, rules)
				sessions := []net.Conn{dial(t, "192.0.2.1:80"), dial(t, "[2001:db8::1]:80")}
				for _, session := range sessions {
					if err := talk(session, 0); err != nil {
						t.Fatalf("%s, before: %v", session.RemoteAddr(), err)
					}
				}
				shell(t, tc.flush)
				if left := shell(t, "iptables-"+tc.backend+"-save; ip6tables-"+tc.backend+"-save"); strings.Contains(left, "\n-A ") {
					t.Fatalf("the flush left rules:\n%s", left)
				}
				for _, session := range sessions {
					err := talk(session, gap)
					if held && err != nil || !held && !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("%s, without rules: %v", session.RemoteAddr(), err)
					}
				}
				shell(t, rules)
				for _, session := range sessions {
					if err := talk(session, 0); (err == nil) != held {
						t.Errorf("%s, with the rules back: %v", session.RemoteAddr(), err)
					}
				}
			})
		}
	}
}

// TestTheTableIsItsOwners: other processes cannot remove the table, and the kernel removes it when its owner exits.
func TestTheTableIsItsOwners(t *testing.T) {
	for _, tc := range []struct {
		ipv6 bool
		want string
	}{
		{true, "table inet smartnat-hold\n"},
		{false, "table ip smartnat-hold\n"},
	} {
		testenv.RequireTool(t, "nft")
		testenv.NewNetNS(t)
		held := take(t, tc.ipv6)
		for _, script := range []string{"nft flush ruleset", "nft delete " + tc.want, "nft flush " + tc.want, "nft delete chain " + strings.TrimPrefix(tc.want, "table ") + "nat"} {
			_ = exec.Command("sh", "-c", script).Run() // only the first one succeeds, without touching the table
			if got := shell(t, "nft list tables"); got != tc.want {
				t.Fatalf("IPv6 %t: after %q the tables are %q, want %q", tc.ipv6, script, got, tc.want)
			}
		}
		if listed := shell(t, "nft list ruleset"); !strings.Contains(listed, "type nat hook input") || !strings.Contains(listed, "ct direction original") {
			t.Errorf("IPv6 %t: nft does not list the chains as expected:\n%s", tc.ipv6, listed)
		}
		if err := held.Close(); err != nil {
			t.Error(err)
		}
		if left := shell(t, "nft list tables"); left != "" {
			t.Errorf("IPv6 %t: %q is left after Close", tc.ipv6, left)
		}
	}
}

// TestTakeWaitsForWhoWasBefore: a new process may start before the table of its killed predecessor is gone.
func TestTakeWaitsForWhoWasBefore(t *testing.T) {
	testenv.RequireTool(t, "nft")
	testenv.NewNetNS(t)
	before := take(t, true)
	time.AfterFunc(releaseTimeout/10, func() { _ = before.Close() })
	take(t, true)
}

// TestTakeLeavesTheTableOfAnother: Take fails and changes nothing if another program created a table of that name.
func TestTakeLeavesTheTableOfAnother(t *testing.T) {
	testenv.RequireTool(t, "nft")
	testenv.NewNetNS(t)
	shell(t, "nft add table inet smartnat-hold")
	before := shell(t, "nft list ruleset")
	if _, err := Take(gateway.DefaultOwnership(), true); !errors.Is(err, unix.EEXIST) {
		t.Errorf("err = %v, want %v", err, unix.EEXIST)
	}
	if after := shell(t, "nft list ruleset"); after != before {
		t.Errorf("the table changed from\n%sto\n%s", before, after)
	}
}

// TestOwns: the next process owns the table through the kept socket without a gap, and the table disappears with the last
// socket.
func TestOwns(t *testing.T) {
	testenv.RequireTool(t, "nft")
	testenv.NewNetNS(t)
	own := gateway.DefaultOwnership()
	kept := keep(t, take(t, true))
	listed := shell(t, "nft -a list ruleset")
	if err := Owns(kept, own, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listed, shell(t, "nft -a list ruleset")); diff != "" {
		t.Errorf("the table was replaced (-before +after):\n%s", diff)
	}
	if _, err := Take(own, true); !errors.Is(err, unix.EPERM) {
		t.Errorf("second Take: %v, want %v", err, unix.EPERM)
	}
	if err := kept.Close(); err != nil {
		t.Error(err)
	}
	if left := shell(t, "nft list tables"); left != "" {
		t.Errorf("%q is left after Close", left)
	}
}

// TestOwnsNot: Owns rejects sockets that do not own the table.
func TestOwnsNot(t *testing.T) {
	testenv.RequireTool(t, "nft")
	own := gateway.DefaultOwnership()
	for _, tc := range []struct {
		name   string
		socket func(t *testing.T) *os.File
		want   string
	}{
		{"other families", func(t *testing.T) *os.File { return keep(t, take(t, false)) }, "no such file"},
		{"another network namespace", func(t *testing.T) *os.File {
			kept := keep(t, take(t, true))
			testenv.NewNetNS(t)
			return kept
		}, "no such file"},
		{"a socket that owns nothing", func(t *testing.T) *os.File {
			take(t, true)
			conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
			if err != nil {
				t.Fatal(err)
			}
			return keep(t, conn)
		}, "belongs to another socket"},
		{"no socket", func(t *testing.T) *os.File {
			take(t, true)
			file, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = file.Close() })
			return file
		}, "non-socket"},
		{"another kind of socket", func(t *testing.T) *os.File {
			take(t, true)
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			file := os.NewFile(uintptr(pair[0]), "pair")
			t.Cleanup(func() { _, _ = file.Close(), unix.Close(pair[1]) })
			return file
		}, "not a netlink address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			socket := tc.socket(t)
			if err := Owns(socket, own, true); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err = %v, want %q in it", err, tc.want)
			}
		})
	}
}

// keep duplicates the socket as systemd does for its fd store, and then closes the original as the end of the process does.
func keep(t *testing.T, h *netlink.Conn) *os.File {
	t.Helper()
	raw, err := h.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var kept *os.File
	var failed error
	err = raw.Control(func(fd uintptr) {
		var second int
		second, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		kept = os.NewFile(uintptr(second), "kept")
	})
	if err := errors.Join(err, failed, h.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kept.Close() })
	return kept
}

func take(t *testing.T, ipv6 bool) *netlink.Conn {
	t.Helper()
	held, err := Take(gateway.DefaultOwnership(), ipv6)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	return held
}

func shell(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// translation returns commands that map port 80 of the gateway to port 8080 of the server and masquerade.
func translation(backend string) string {
	return strings.NewReplacer("IPTABLES", "iptables-"+backend, "IP6TABLES", "ip6tables-"+backend).Replace(
		`IPTABLES -t nat -A PREROUTING -i client -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2:8080
		IPTABLES -t nat -A POSTROUTING -o server -j MASQUERADE
		IP6TABLES -t nat -A PREROUTING -i client -p tcp --dport 80 -j DNAT --to-destination [fd00::2]:8080
		IP6TABLES -t nat -A POSTROUTING -o server -j MASQUERADE`)
}

// newGateway moves the test into a host between a client and a server that echoes.
func newGateway(t *testing.T) {
	t.Helper()
	for _, program := range []string{"ip", "nft", "iptables-nft", "iptables-legacy"} {
		testenv.RequireTool(t, program)
	}
	testenv.NewNetNS(t)
	for name, addresses := range map[string][]string{"client": {"192.0.2.", "2001:db8::"}, "server": {"10.0.0.", "fd00::"}} {
		shell(t, "ip netns add "+name)
		t.Cleanup(func() { shell(t, "ip netns del "+name) })
		shell(t, strings.NewReplacer("NAME", name, "FOUR", addresses[0], "SIX", addresses[1]).Replace(
			`ip link add NAME type veth peer name eth0 netns NAME
			ip addr add FOUR1/24 dev NAME
			ip addr add SIX1/64 dev NAME nodad
			ip link set NAME up
			ip -n NAME link set lo up
			ip -n NAME addr add FOUR2/24 dev eth0
			ip -n NAME addr add SIX2/64 dev eth0 nodad
			ip -n NAME link set eth0 up`))
	}
	testenv.AwaitLocal(t, "2001:db8::1", "fd00::1")
	shell(t, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	testenv.In(t, "server", func() error {
		listener, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
		return nil
	})
}

func dial(t *testing.T, address string) (conn net.Conn) {
	t.Helper()
	testenv.In(t, "client", func() (err error) {
		conn, err = net.DialTimeout("tcp", address, 10*time.Second)
		return err
	})
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// talk sends data and checks its echo, at least once and for the given time.
func talk(conn net.Conn, long time.Duration) error {
	started := time.Now()
	if err := conn.SetDeadline(started.Add(long + 10*time.Second)); err != nil {
		return err
	}
	said := []byte("still there?")
	for {
		if _, err := conn.Write(said); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, make([]byte, len(said))); err != nil {
			return err
		}
		if time.Since(started) > long {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

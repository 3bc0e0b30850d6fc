// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/testenv"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { testenv.Main(m) }

func installed() Programs {
	return Programs{Smartnatd: "/usr/sbin/smartnatd", Config: "/etc/smartnat.yaml"}
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// pair is a config with an uplink of both families and an inside link.
func pair() config.Config {
	cfg := config.Default()
	cfg.Instance = "gw1"
	cfg.HA.SyncLink, cfg.HA.SyncAddress, cfg.HA.Peer = "lo", netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	cfg.HA.Links = []config.HALink{
		{Interface: "up0", VirtualAddresses: addrs("198.51.100.10", "2001:db8:1::10", "198.51.100.11"), Addresses: addrs("198.51.100.21", "2001:db8:1::21"), Peers: addrs("198.51.100.22", "2001:db8:1::22")},
		{Interface: "in0.100", VirtualAddresses: addrs("10.10.0.1"), Addresses: addrs("10.10.0.2"), Peers: addrs("10.10.0.3")},
	}
	return cfg
}

// second is the other box, with what differs from the defaults.
func second() config.Config {
	cfg := pair()
	cfg.Instance = "gw2.example.com"
	cfg.HA.SyncAddress, cfg.HA.Peer = netip.MustParseAddr("fd00:99::2"), netip.MustParseAddr("fd00:99::1")
	for i := range cfg.HA.Links {
		l := &cfg.HA.Links[i]
		l.Addresses, l.Peers = l.Peers, l.Addresses
	}
	cfg.HA.Hook = "/etc/smartnat/ha-hook"
	cfg.HA.Priority, cfg.HA.Preempt.After, cfg.HA.AdvertInterval, cfg.HA.SyncPort = 200, 90*time.Second, 50*time.Millisecond, 4000
	return cfg
}

// texts returns all files of a config, one behind the other.
func texts(t *testing.T, cfg config.Config) []File {
	t.Helper()
	files, err := Files(cfg, installed())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFiles(t *testing.T) {
	for name, cfg := range map[string]config.Config{"first": pair(), "second": second()} {
		for _, f := range texts(t, cfg) {
			golden := filepath.Join("testdata", name, f.Path)
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(f.Text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), f.Text); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		}
	}
}

// TestNothingBecomesAnotherDirective expects one line for each text that keepalived, conntrackd or systemd could read as something else.
func TestNothingBecomesAnotherDirective(t *testing.T) {
	for _, path := range []string{"relative", "/with space", "/new\nline", `/quo"te`, "/vari$able", "/brace}", "/com!ment", "/hash#", "/per%cent", "/back\\slash", "/tilde~", "/at@x"} {
		cfg := pair()
		cfg.RuntimeDir = path
		for what, try := range map[string]func() error{
			"runtimeDir":             func() error { _, err := Files(cfg, installed()); return err },
			"the path of the config": func() error { _, err := Files(pair(), Programs{"/usr/sbin/smartnatd", path}); return err },
			"the path of smartnatd":  func() error { _, err := Files(pair(), Programs{path, "/etc/smartnat.yaml"}); return err },
		} {
			if err := try(); err == nil || !strings.HasPrefix(err.Error(), what+": ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s %q: error %v, want one line", what, path, err)
			}
		}
	}
	if _, err := Files(config.Default(), installed()); err == nil || !strings.Contains(err.Error(), "ha: is not set") {
		t.Errorf("without a pair: %v", err)
	}
}

// TestKeepalivedAccepts runs keepalived's own check, which also complains about what it would ignore.
func TestKeepalivedAccepts(t *testing.T) {
	testenv.RequireKernel(t)
	testenv.RequireTool(t, "keepalived")
	for _, link := range []string{"up0", "in0.100"} {
		if out, err := exec.Command("ip", "link", "add", link, "type", "bridge").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// keepalived checks that the program of a script exists and belongs to root alone.
	programs := Programs{Smartnatd: "/bin/true", Config: "/etc/smartnat.yaml"}
	for name, cfg := range map[string]config.Config{"first": pair(), "second": second()} {
		text, err := Keepalived(cfg, programs)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := checkKeepalived(t, text); err != nil || out != "" {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		// The check would see a mistake.
		if out, err := checkKeepalived(t, strings.Replace(text, "advert_int", "advert_interval", 1)); err == nil {
			t.Errorf("%s: a mistake is accepted: %s", name, out)
		}
	}
}

// checkKeepalived returns what keepalived says about a config, without what it says about every config.
func checkKeepalived(t *testing.T, text string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keepalived.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("keepalived", "--config-test", "--use-file", path, "--log-console").CombinedOutput()
	return string(out), err
}

// TestConntrackdStarts starts conntrackd, which has no check of its config, and asks it for its network.
func TestConntrackdStarts(t *testing.T) {
	testenv.RequireKernel(t)
	testenv.RequireTool(t, "conntrackd")
	dir := t.TempDir()
	cfg := pair()
	text, err := Conntrackd(cfg, installed())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "conntrackd.conf")
	text = strings.NewReplacer(conntrackdLock, dir+"/lock", conntrackdSocket, dir+"/ctl").Replace(text)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	daemon := exec.CommandContext(ctx, "conntrackd", "-C", path)
	daemon.Stdout, daemon.Stderr = &said, &said
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	for {
		out, err := exec.Command("conntrackd", "-C", path, "-s", "network").CombinedOutput()
		if err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("conntrackd ended: %v\n%s", err, said.String())
		case <-time.After(100 * time.Millisecond):
			t.Logf("not yet: %s", out)
		}
	}
	for _, role := range Roles() {
		for _, arguments := range Commands(role) {
			if out, err := exec.Command("conntrackd", append([]string{"-C", path}, arguments...)...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", arguments, err, out)
			}
		}
	}
	if out, err := exec.Command("conntrackd", "-C", path, "-k").CombinedOutput(); err != nil {
		t.Errorf("-k: %v: %s", err, out)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, complaint := range []string{"WARNING", "ERROR", "error", "deprecated"} {
		if strings.Contains(said.String(), complaint) {
			t.Errorf("conntrackd says:\n%s", said.String())
		}
	}
}

func TestRoleOf(t *testing.T) {
	at := time.Unix(1000, 0)
	virtual := addrs("198.51.100.10", "10.10.0.1")
	for _, test := range []struct {
		held       string
		said, want Notified
	}{
		{"198.51.100.10 10.10.0.1", Notified{Primary, at}, Notified{Primary, at}},
		{"198.51.100.10 10.10.0.1", Notified{Backup, at}, Notified{Role: Primary}},
		{"", Notified{Backup, at}, Notified{Backup, at}},
		{"", Notified{Fault, at}, Notified{Fault, at}},
		{"", Notified{Stopped, at}, Notified{Stopped, at}},
		{"", Notified{Primary, at}, Notified{Role: Backup}},
		{"", Notified{}, Notified{Role: Backup}},
		{"", Notified{"king", at}, Notified{Role: Backup}},
		{"10.10.0.1", Notified{Primary, at}, Notified{Role: Partial}},
	} {
		held := func(a netip.Addr) bool { return strings.Contains(test.held, a.String()) }
		if got := RoleOf(virtual, held, test.said); got != test.want {
			t.Errorf("held %q, said %v: %v, want %v", test.held, test.said, got, test.want)
		}
	}
}

func TestHookOfTooManyAddresses(t *testing.T) {
	cfg := second()
	for i := range 60 {
		cfg.HA.Links[0].VirtualAddresses = append(cfg.HA.Links[0].VirtualAddresses, netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + i)}))
	}
	if _, err := Keepalived(cfg, installed()); err == nil || !strings.HasPrefix(err.Error(), "ha.links: the hook needs all virtual addresses in a line of ") {
		t.Errorf("%v", err)
	}
}

func TestNewHook(t *testing.T) {
	for name, test := range map[string]struct{ program, instance, address string }{
		"a path that is not absolute": {"hook", "gw1", "eth1=198.51.100.20"},
		"no instance":                 {"/hook", "", "eth1=198.51.100.20"},
		"no link":                     {"/hook", "gw1", "198.51.100.20"},
		"no address":                  {"/hook", "gw1", "eth1=$(reboot)"},
		"a wrong link":                {"/hook", "gw1", "eth 1=198.51.100.20"},
	} {
		if h, err := NewHook(test.program, test.instance, []string{test.address}); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	cfg := second()
	if _, err := NewHook(cfg.HA.Hook, cfg.Instance, HookAddresses(cfg.HA)); err != nil {
		t.Error(err)
	}
}

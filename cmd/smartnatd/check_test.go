// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
)

// checkHost is a host whose config is right, except that IPv6 is not configured.
func checkHost(t *testing.T, backend string) (configFile string) {
	t.Helper()
	configFile = newHost(t)
	output(t, "ip", "link", "set", "lo", "up")
	output(t, "ip", "addr", "add", "172.17.0.1/24", "dev", "eth1") // the Mapping's other address
	appendTo(t, configFile, "iptables: {variant: "+map[string]string{"legacy": "legacy", "nft": "nf_tables"}[backend]+"}\n")
	right := strings.Replace(readFile(t, configFile), "{interface: eth1}", "{interface: eth1, gateway: 10.237.94.1}", 1)
	if err := os.WriteFile(configFile, []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}
	return configFile
}

func nft(t *testing.T, ruleset string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ruleset")
	if err := os.WriteFile(file, []byte(ruleset+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "nft", "-f", file)
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(readFile(t, path)+text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCheckOfAHost runs check on the real kernel: its lines, its exit code, and that it leaves nothing behind.
func TestCheckOfAHost(t *testing.T) {
	for _, backend := range []string{"nft", "legacy"} {
		for _, test := range []struct {
			name string
			// spoil breaks the host or the config.
			spoil func(t *testing.T, configFile string)
			exit  int
			want  string
		}{
			{"right", func(*testing.T, string) {}, 0, "ok      iptables rules: tried"},
			{"an IPv6 address without a gateway", func(t *testing.T, _ string) {
				output(t, "ip", "addr", "add", "2001:db8::10/64", "dev", "eth1", "nodad")
			}, 1, "WARN    uplinks: uplinks[0].gateway: no IPv6 gateway for eth1"},
			{"the boundary of a host that forwards for smartnatd", func(*testing.T, string) {}, 0, "ok      boundary: this host forwards IPv4"},
			{"no uplinks", func(t *testing.T, configFile string) {
				before, after, found := strings.Cut(readFile(t, configFile), "uplinks:")
				_, after, more := strings.Cut(after, "\n")
				if !found || !more {
					t.Fatalf("no uplinks in the config: %s", before)
				}
				if err := os.WriteFile(configFile, []byte(before+after), 0o600); err != nil {
					t.Fatal(err)
				}
			}, 1, "WARN    uplinks: none is configured"},
			{"a next hop on no link", func(t *testing.T, configFile string) {
				appendTo(t, configFile, "serviceRoutes: [{destination: 10.96.0.0/16, via: [10.99.0.1]}]\n")
			}, 2, "FAILED  serviceRoutes[0]: no next hop of 10.96.0.0/16"},
			{"a next hop that is silent, and one that is on no link", func(t *testing.T, configFile string) {
				appendTo(t, configFile, "serviceRoutes: [{destination: 10.96.0.0/16, via: [10.99.0.1, 10.237.94.77]}]\n")
			}, 2, "FAILED  serviceRoutes[0]: no next hop of 10.96.0.0/16"},
			{"the data plane", func(*testing.T, string) {}, 0, "ok      dataplane: iptables, because iptables accepts a trial rule"},
			{"nftables", func(t *testing.T, configFile string) {
				appendTo(t, configFile, "dataplane: nftables\n")
			}, 0, "ok      nftables rules: tried"},
			{"no flowtable", func(t *testing.T, configFile string) {
				appendTo(t, configFile, "dataplane: nftables\nflowtable: off\n")
			}, 0, "ok      flowtable: off: flowtable is off in the config"},
			{"Docker's policy with nftables", func(t *testing.T, configFile string) {
				appendTo(t, configFile, "dataplane: nftables\n")
				output(t, "iptables-"+backend, "-P", "FORWARD", "DROP")
			}, 1, "WARN    FORWARD: the IPv4 chain FORWARD drops what is forwarded for Mappings, as an accept in nftables does not count there: iptables-" +
				backend + " -I FORWARD -m connmark --mark 0x10/0x10 -j ACCEPT; or set dataplane: iptables"},
			{"another table that drops, with nftables", func(t *testing.T, configFile string) {
				appendTo(t, configFile, "dataplane: nftables\n")
				nft(t, "table inet fw { chain forward { type filter hook forward priority 10; policy drop; }; }")
			}, 1, "WARN    nftables: chain forward of table inet fw drops what is forwarded for Mappings, as an accept in nftables does not count there: " +
				"nft insert rule inet fw forward ct mark and 0x10 == 0x10 accept"},
			{"Docker's policy", func(t *testing.T, _ string) {
				output(t, "iptables-"+backend, "-P", "FORWARD", "DROP")
			}, 1, "WARN    FORWARD: the IPv4 policy"},
			{"another table that drops", func(t *testing.T, _ string) {
				nft(t, "table inet fw { chain forward { type filter hook forward priority 10; policy drop; }; }")
			}, 1, "WARN    nftables: chain forward of table inet fw drops what is forwarded for Mappings, as an accept in iptables does not count there: " +
				"nft insert rule inet fw forward ct mark and 0x10 == 0x10 accept"},
			{"another table that drops, as check says it should", func(t *testing.T, _ string) {
				nft(t, "table inet fw { chain forward { type filter hook forward priority 10; policy drop; }; }")
				output(t, "nft", "insert", "rule", "inet", "fw", "forward", "ct", "mark", "and", "0x10", "==", "0x10", "accept")
			}, 0, "ok      iptables rules: tried"},
			{"Tailscale's rules", func(t *testing.T, _ string) {
				output(t, "ip", "rule", "add", "priority", "5210", "fwmark", "0x80000/0xff0000", "lookup", "main")
			}, 1, `WARN    ip rules: "IPv4 5210: from all fwmark 0x80000/0xff0000 lookup 254"`},
			{"a Mapping with a finding", func(t *testing.T, _ string) {
				output(t, "ip", "addr", "del", "172.17.0.1/24", "dev", "eth1")
			}, 1, "WARN    Mapping default/echo: spec.addresses[1]"},
			{"objects that are missing", func(t *testing.T, configFile string) {
				appendTo(t, configFile, "")
				text := strings.ReplaceAll(readFile(t, configFile), "/testdata/mapping.yaml", "/testdata/gone.yaml")
				if err := os.WriteFile(configFile, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}, 2, "FAILED  config: source.files.paths[0]"},
		} {
			t.Run(backend+"/"+test.name, func(t *testing.T) {
				configFile := checkHost(t, backend)
				test.spoil(t, configFile)
				before := programmed(t)
				exit, stdout, stderr := smartnatd(t, "", "check", "--config", configFile)
				if exit != test.exit || !strings.Contains(stdout, test.want) {
					t.Errorf("exit code %d, want %d and %q in\n%s%s", exit, test.exit, test.want, stdout, stderr)
				}
				for line := range strings.Lines(stdout) {
					if !strings.HasPrefix(line, "ok      ") && !strings.HasPrefix(line, "WARN    ") && !strings.HasPrefix(line, "FAILED  ") {
						t.Errorf("unexpected start of line: %q", line)
					}
				}
				if diff := cmp.Diff(before, programmed(t)); diff != "" {
					t.Errorf("check changed the kernel (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// TestCheckTriesRules checks that only a trial rule finds a kernel without a module: the programs are present and recent
// enough.
func TestCheckTriesRules(t *testing.T) {
	for _, test := range []struct {
		name, refused, dataplane string
		exit                     int
		want                     string
	}{
		{"affinity", "-m recent", "auto", 1, "WARN    iptables rules: session affinity is refused (it needs xt_recent"},
		{"all, with iptables", "-A", "iptables", 2, "FAILED  iptables rules: forwarding is refused"},
		{"all", "-A", "auto", 0, "ok      dataplane: nftables, because iptables does not work: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			configFile := checkHost(t, "auto")
			appendTo(t, configFile, "dataplane: "+test.dataplane+"\n")
			dir := t.TempDir()
			for _, family := range []string{"iptables", "ip6tables"} {
				for _, program := range []string{family, family + "-save", family + "-restore"} {
					path, err := exec.LookPath(strings.Replace(program, "tables", "tables-nft", 1))
					if err != nil {
						t.Fatal(err)
					}
					script := "#!/bin/sh\nexec " + path + " \"$@\"\n"
					if program == family+"-restore" {
						script = fmt.Sprintf("#!/bin/sh\n[ \"$1\" != --version ] || exec %[1]s \"$@\"\ntext=\"$(cat)\"\n"+
							"case \"$text\" in *'%[2]s'*) echo 'Warning: Extension recent revision 0 not supported, missing kernel module?' >&2; "+
							"echo \"${0##*/}: line 5: RULE_APPEND failed (No such file or directory): rule in chain X\" >&2; exit 4;; esac\n"+
							"printf '%%s\\n' \"$text\" | %[1]s \"$@\"\n", path, test.refused)
					}
					if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			exit, stdout, stderr := smartnatd(t, "", "check", "--config", configFile)
			if exit != test.exit || !strings.Contains(stdout, test.want) {
				t.Errorf("exit code %d, want %d and %q in\n%s%s", exit, test.exit, test.want, stdout, stderr)
			}
		})
	}
}

// TestEachServerIsALine checks all servers, including those that smartnatd does not ask while another one works.
func TestEachServerIsALine(t *testing.T) {
	relay := config.Source{Relay: &config.Relay{Servers: []string{"https://10.10.0.11:8443", "https://10.10.0.12:8443"}, TokenFile: "/token"}}
	for _, test := range []struct {
		name string
		errs []error
		want []string
	}{
		{"both work", []error{nil, nil}, []string{"ok      source (https://10.10.0.11:8443): works", "ok      source (https://10.10.0.12:8443): works"}},
		{"one works", []error{errors.New("refused"), nil}, []string{"WARN    source (https://10.10.0.11:8443): refused", "ok      source (https://10.10.0.12:8443): works"}},
		{"none works", []error{errors.New("refused"), errors.New("Unauthorized")}, []string{"FAILED  source (https://10.10.0.11:8443): refused", "FAILED  source (https://10.10.0.12:8443): Unauthorized"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := servers(relay)
			for i, err := range test.errs {
				if diff := cmp.Diff([]string{relay.Relay.Servers[i]}, asked[i].source.Relay.Servers); diff != "" {
					t.Error(diff)
				}
				asked[i].err = err
			}
			lines, snapshot := judgeServers(asked)
			var got []string
			for _, line := range lines {
				got = append(got, line.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if works := lines[0].Level == check.OK || lines[1].Level == check.OK; works != (snapshot != nil) {
				t.Errorf("a server works: %t, but the snapshot is %v", works, snapshot)
			}
		})
	}
}

func TestNetworkdConfig(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	got := networkdConfig(fstest.MapFS{
		"usr/lib/systemd/networkd.conf":             file("vendor"),
		"etc/systemd/networkd.conf":                 file("main"),
		"usr/lib/systemd/networkd.conf.d/20-b.conf": file("hidden"),
		"etc/systemd/networkd.conf.d/20-b.conf":     file("b"),
		"run/systemd/networkd.conf.d/10-a.conf":     file("a"),
	})
	if diff := cmp.Diff([]string{"main", "a", "b"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

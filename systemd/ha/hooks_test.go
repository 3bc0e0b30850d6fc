// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMain is also the programs that hooks call: they are links to the test's own.
func TestMain(m *testing.M) {
	if clouds[os.Getenv("CLOUD")] != nil {
		os.Exit(standIn(os.Args, os.Getenv("CLOUD"), os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const (
	v4, v6 = "198.51.100.20", "2001:db8:1::20"
	config = `PEER=peer
PEER_ZONE=zone-b
RESOURCE_GROUP=gateways
NICS="lo=own-nic:peer-nic"
PUBLIC_IPS="198.51.100.20=public"
TOKEN_FILE=token
FLOATING_IPS="198.51.100.20=4711"
NETWORK=815
`
)

// run runs a hook in a folder with the state of a cloud.
func run(t *testing.T, dir, cloud, role string, env ...string) (string, error) {
	t.Helper()
	// A copy: go test knows only of files that it reads itself, and would repeat an old result.
	hook := filepath.Join(dir, "hook")
	if err := os.WriteFile(hook, []byte(read(t, ".", cloud)), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(hook, role)
	cmd.Dir = dir
	addresses := "lo=" + v4
	if cloud != "gcp" {
		addresses += " lo=" + v6
	}
	cmd.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "CLOUD=" + cloud, "SMARTNAT_HA_CONF=" + filepath.Join(dir, "conf"), "SMARTNAT_HA_ADDRESSES=" + addresses}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func folder(t *testing.T, state string) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"aws", "gcloud", "az", "curl"} {
		if err := os.Symlink(self, filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"conf": config, "token": "secret\n", "state": state} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestHooks expects that a new primary gets the addresses, wherever they were, that a second call changes nothing, and that nothing is
// called in other roles.
func TestHooks(t *testing.T) {
	for cloud, test := range map[string]struct{ peers, want string }{
		"aws":     {"198.51.100.20 eni-peer\n2001:db8:1::20 eni-peer\n", "198.51.100.20 eni-own\n2001:db8:1::20 eni-own\n"},
		"gcp":     {"peer/zone-b/nic1 198.51.100.20/32\n", "own/zone-a/nic0 198.51.100.20/32\n"},
		"azure":   {"peer-nic/old4 198.51.100.20\npeer-nic/old6 2001:db8:1::20\n", "own-nic/smartnat-198-51-100-20 198.51.100.20+public\nown-nic/smartnat-2001-db8-1--20 2001:db8:1::20\n"},
		"hetzner": {"alias/peer \"2001:db8:1::20\"\nfloating/4711 41\n", "alias/7 \"2001:db8:1::20\"\nfloating/4711 7\n"},
	} {
		for name, before := range map[string]string{"free": "", "at the peer": test.peers, "here": test.want} {
			t.Run(cloud+"/"+name, func(t *testing.T) {
				dir := folder(t, before)
				for range 2 {
					if out, err := run(t, dir, cloud, "primary"); err != nil {
						t.Fatalf("%v:\n%s", err, out)
					}
					if diff := cmp.Diff(test.want, read(t, dir, "state")); diff != "" {
						t.Fatalf("(-want +got):\n%s", diff)
					}
				}
				if err := os.Remove(filepath.Join(dir, "calls")); err != nil {
					t.Fatal(err)
				}
				for _, role := range []string{"backup", "fault", "stopped"} {
					if out, err := run(t, dir, cloud, role); err != nil {
						t.Errorf("%s: %v:\n%s", role, err, out)
					}
				}
				if _, err := os.Stat(filepath.Join(dir, "calls")); err == nil {
					t.Errorf("called in other roles:\n%s", read(t, dir, "calls"))
				}
			})
		}
		t.Run(cloud+"/fails", func(t *testing.T) {
			if out, err := run(t, folder(t, test.peers), cloud, "primary", "FAIL=1"); err == nil {
				t.Errorf("a hook whose calls fail succeeds:\n%s", out)
			}
		})
	}
}

// TestPeerInAnotherSubnetwork expects that nothing is changed if the addresses cannot be on both instances.
func TestPeerInAnotherSubnetwork(t *testing.T) {
	const before = "foreign/zone-b/nic0 198.51.100.20/32\n"
	dir := folder(t, before)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(strings.Replace(config, "PEER=peer", "PEER=foreign", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, dir, "gcp", "primary")
	if err == nil || !strings.Contains(out, "foreign has no interface in the subnetwork of lo (nic0: ") {
		t.Errorf("%v:\n%s", err, out)
	}
	if diff := cmp.Diff(before, read(t, dir, "state")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestHooksAreInstalled keeps the packages complete.
func TestHooksAreInstalled(t *testing.T) {
	packages := read(t, "../../scripts/packages", "nfpm.yaml")
	for cloud := range clouds {
		if !strings.Contains(packages, "src: systemd/ha/"+cloud+"\n") {
			t.Errorf("no package has the hook for %s", cloud)
		}
	}
}

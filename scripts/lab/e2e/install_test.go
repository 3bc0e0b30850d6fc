// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// documented returns the commands of the first block of shell in a section of README.md, without comments.
func documented(t *testing.T, section string) []string {
	t.Helper()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\n## "+section+"\n")
	_, block, _ = strings.Cut(block, "\n```sh\n")
	block, _, _ = strings.Cut(block, "\n```\n")
	var commands []string
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "# ")
		commands = append(commands, strings.TrimSpace(line))
	}
	return commands
}

// TestFromNothingToTheFirstPacket runs the commands of README.md in a cluster that has nothing of SmartNat, and on a Debian that is booted
// for it.
func TestFromNothingToTheFirstPacket(t *testing.T) {
	commands := documented(t, "On your own cluster")
	if len(commands) != 5 {
		t.Fatalf("README.md has %d commands, want 5: %q", len(commands), commands)
	}
	if _, err := exec.LookPath("apt"); err != nil {
		t.Skipf("SKIPPED: this machine is no Debian: %v", err)
	}
	testenv.RequireTool(t, "systemd-nspawn")
	w := &world{Lab: lab.New(t), plane: native{}}
	// The administrator's folder has the files of a release, and the plugin is in the PATH.
	manifest, err := w.WriteManifest(timeout(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(manifest)
	if err := w.BuildPackages(timeout(t, 2*time.Minute), folder); err != nil {
		t.Fatalf("building the packages: %v; `make packages` gets what that needs", err)
	}
	gateway, err := w.Boot(timeout(t, time.Minute), lab.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gateway.Stop(timeout(t, patience)); err != nil {
			t.Error(err)
		}
	})
	w.daemon = gateway.System // its log has the journal
	admin := func(line string) string {
		t.Helper()
		out, err := w.Administer(timeout(t, time.Minute), folder, line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return out
	}
	host := func(line string) string {
		t.Helper()
		out, err := gateway.Exec(timeout(t, time.Minute), "sh", "-ec", "cd "+folder+"\n"+line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return out
	}
	host("dpkg --purge smartnat") // it may be installed on this machine

	admin(commands[0])
	if _, err := w.RunDeployedRelay(timeout(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	admin(commands[1])
	if !strings.HasPrefix(commands[2], "apt install ./smartnat_") {
		t.Errorf("the third command is %q, want the installation of the deb", commands[2])
	}
	host(strings.ReplaceAll(commands[2], "amd64", runtime.GOARCH))
	if out := host("systemctl is-enabled smartnatd || true; systemctl is-active smartnatd || true"); out != "disabled\ninactive\n" {
		t.Errorf("the package alone: smartnatd is %q, want disabled and inactive", out)
	}
	enrolled := host(commands[3])
	for _, want := range []string{
		"wrote   /etc/smartnat/token: the credential, until ", "wrote   /etc/smartnat.yaml: the config\n", "ok      serviceRoutes: 2\n", "ok      source (https://10.10.0.11:",
		"note    eth2 holds 203.0.113.10 but has no default route", "\nstarted smartnatd.service",
	} {
		if !strings.Contains(enrolled, want) {
			t.Errorf("no %q in the output of enroll:\n%s", want, enrolled)
		}
	}
	if strings.Contains(enrolled, "WARN") || strings.Contains(enrolled, "FAILED") {
		t.Errorf("enroll warns:\n%s", enrolled)
	}
	if out := host("stat -c '%a %U %n' /etc/smartnat /etc/smartnat/* /etc/smartnat.yaml"); out != "700 root /etc/smartnat\n"+
		"600 root /etc/smartnat/ca.crt\n600 root /etc/smartnat/token\n644 root /etc/smartnat.yaml\n" {
		t.Errorf("the files are\n%s", out)
	}
	for _, unit := range []string{"smartnatd", "smartnat-boundary"} {
		if out := host("systemctl is-enabled " + unit + "; systemctl is-active " + unit); out != "enabled\nactive\n" {
			t.Errorf("after enroll --start, %s is %q, want enabled and active", unit, out)
		}
	}
	w.namespace(t, "first", 1)
	if err := w.Host(lab.Control).WriteFile(filepath.Join(folder, "mapping.yaml"), mappingYAML("first", "echo",
		`addresses: [198.51.100.10, "2001:db8:1::10"], serviceName: echo, ports: [{port: 8080}]`)); err != nil {
		t.Fatal(err)
	}
	admin(commands[4])
	for _, external := range []string{lab.External1, lab.External1v6} {
		w.await(t, lab.Client, "tcp", lab.Join(external, 8080), nil)
	}
	admin("kubectl wait --namespace=first --for=condition=Ready mapping/echo --timeout=20s")
	if out := host("smartnatd status"); !strings.Contains(out, "first/echo") {
		t.Errorf("smartnatd status:\n%s", out)
	}

	if out := admin("kubectl smartnat status --namespace first"); !strings.Contains(out, "True   gateway-1  yes") {
		t.Errorf("kubectl smartnat status:\n%s", out)
	}
	if out := admin("kubectl smartnat explain 192.0.2.10 198.51.100.10:8080"); !strings.HasSuffix(out, "on gateway-1:  smartnatd explain 192.0.2.10 198.51.100.10:8080/tcp\n") {
		t.Errorf("kubectl smartnat explain:\n%s", out)
	}
	t.Run("again", func(t *testing.T) { testEnrollAgain(t, gateway, admin, host) })
	t.Run("one network card", func(t *testing.T) { testEnrollOneCard(t, w, host) })
}

// testEnrollAgain renews the credential, and meets configs that enroll must not replace.
func testEnrollAgain(t *testing.T, gateway *lab.Booted, admin, host func(line string) string) {
	before := host("cat /etc/smartnat.yaml; echo '# by hand' >>/etc/smartnat.yaml; cat /etc/smartnat/token")
	admin("kubectl smartnat enroll gateway-1 --output again.yaml; kubectl smartnat enroll gateway-2 >other.yaml")
	out := host("smartnatd enroll again.yaml")
	if !strings.HasSuffix(out, "renewed; a running smartnatd takes the credential by itself\n") || strings.Contains(out, "/etc/smartnat.yaml: the config") {
		t.Errorf("a second enrollment:\n%s", out)
	}
	after := host("cat /etc/smartnat.yaml /etc/smartnat/token")
	if strings.Count(after, "# by hand\n") != 1 || after == before {
		t.Errorf("the config was\n%s\nand is\n%s", before, after)
	}
	for _, test := range []struct{ line, want string }{
		{"smartnatd enroll other.yaml",
			"/etc/smartnat.yaml is the config of gateway gateway-1, and the bundle is of gateway gateway-2: replace the config with --force"},
		{"echo 'uplink: []' >>/etc/smartnat.yaml; smartnatd enroll again.yaml",
			"/etc/smartnat.yaml exists and is not valid: repair it, or replace it with --force"},
		{"printf 'source: {files: {paths: [/etc/smartnat/objects]}}' >/etc/smartnat.yaml; smartnatd enroll again.yaml",
			"/etc/smartnat.yaml exists and does not use the credential /etc/smartnat/token"},
		{"smartnatd enroll /etc/hostname",
			"want the output of kubectl smartnat enroll"},
		{"smartnatd enroll again.yaml --force --uplink eth9",
			"this host has no link eth9: it has eth0, eth1, eth2"},
	} {
		token := host("cat /etc/smartnat/token")
		if out, err := gateway.Exec(timeout(t, patience), "sh", "-ec", "cd /run/lab\n"+test.line); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v\n%swant %s", test.line, err, out, test.want)
		}
		if host("cat /etc/smartnat/token") != token {
			t.Errorf("%s: changed the credential", test.line)
		}
	}
	out = host("smartnatd enroll - --force --uplink eth1 --uplink eth2=203.0.113.1 <other.yaml && cat /etc/smartnat.yaml")
	if !strings.Contains(out, "instance: \"gateway-2\"\n") || !strings.Contains(out, "- {interface: \"eth2\", gateway: \"203.0.113.1\"}\n") {
		t.Errorf("with --force:\n%s", out)
	}
}

// testEnrollOneCard makes the gateway reach the outside and the nodes by one link, as a cloud server does, and enrolls it again.
func testEnrollOneCard(t *testing.T, w *world, host func(line string) string) {
	for _, line := range []string{ // the lab's bridges are in the namespace of the test
		"link add patch type veth peer name patch1", "link set patch master cluster", "link set patch1 master outside1",
		"link set patch up", "link set patch1 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "del", "patch").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	host(`ip link set eth1 down; ip link set eth2 down; ip addr flush dev eth1; ip addr flush dev eth2
		ip addr add 198.51.100.10/24 dev eth0; ip route replace default via 198.51.100.1 dev eth0`)
	if _, err := w.Host(lab.Router).Exec(timeout(t, patience), "ip", "neigh", "flush", "all"); err != nil {
		t.Fatal(err)
	} // it believes for up to 45 s that eth1 has the address
	out := host("smartnatd enroll again.yaml --force && cat /etc/smartnat.yaml")
	for _, want := range []string{
		"\nuplinks:\n- {interface: \"eth0\"}\n", "insideNetworks: [\"10.244.1.0/24\", \"10.244.2.0/24\"",
		"- {destination: \"10.96.0.0/16\", via: [\"10.10.0.11\", \"10.10.0.12\"]}\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	host("systemctl restart smartnatd")
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 8080), nil)
}

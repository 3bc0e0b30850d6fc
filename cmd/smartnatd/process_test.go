// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// asProgram makes the test binary run as smartnatd.
const asProgram = "SMARTNATD_TEST_PROGRAM"

// librariesLog has the log lines of the Kubernetes libraries. They share one log per process, so TestMain sets it before any of
// them runs.
var librariesLog lines

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	klog.LogToStderr(false)
	klog.SetOutput(&librariesLog)
	testenv.Main(m)
}

func supervise(t *testing.T) *testenv.Supervisor {
	t.Helper()
	supervisor, err := testenv.NewSupervisor(filepath.Join(t.TempDir(), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = supervisor.Close() })
	return supervisor
}

func count(said []string, word string) (n int) {
	for _, other := range said {
		if other == word {
			n++
		}
	}
	return n
}

func awaitWord(t *testing.T, s *testenv.Supervisor, word string, times int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); count(s.Notifications(), word) < times; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q was not sent %d times within 30 s, but %q", word, times, s.Notifications())
		}
	}
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// programmed returns what smartnatd may have written, without comments and counters.
func programmed(t *testing.T) string {
	t.Helper()
	return output(t, "sh", "-ec", `for program in iptables-save ip6tables-save; do $program | sed -e '/^#/d' -e 's/\[[0-9:]*\]//'; done
		ip -4 rule; ip -6 rule; ip -4 route show table all; cat /proc/sys/net/ipv4/ip_forward`)
}

// TestAsSystemdSeesIt runs the whole program on a host of its own. It is ready when the rules are in effect, sends heartbeats
// while the worker turns, and leaves the rules when it ends. It logs that connections cannot be held, and works regardless.
func TestAsSystemdSeesIt(t *testing.T) {
	configFile := newHost(t)
	output(t, "nft", "add", "table", "inet", "smartnat-hold") // of another program
	systemd := supervise(t)
	program := startProgram(t, systemd, configFile, "WATCHDOG_USEC=4000000")

	awaitWord(t, systemd, "READY=1", 1)
	inEffect := programmed(t)
	if !strings.Contains(inEffect, "-j DNAT") || !strings.HasSuffix(inEffect, "\n1\n") {
		t.Errorf("ready, but the kernel has\n%s", inEffect)
	}
	if n := count(systemd.Notifications(), "STATUS=1 Mapping programmed; source connected"); n != 1 {
		t.Errorf("the status was sent %d times, want once, in %q", n, systemd.Notifications())
	}
	for path, want := range map[string]string{
		"/livez": "ok\n", "/readyz": "ok\n", "/metrics": "\nsmartnat_mappings_programmed 1\n",
		"/": "<title>SmartNat</title>", "/api/status": `"counts":{"all":1,`,
		"/api/explain?source=10.0.0.5&destination=10.237.94.10:8080&protocol=tcp": `"verdict":"forwarded"`,
	} {
		if code, body := getInside(t, path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want %q in\n%s", path, code, want, body)
		}
	}
	awaitWord(t, systemd, "WATCHDOG=1", 2)
	program.awaitLog(t, "connections end if another process removes all rules", 1)

	program.end(t)
	awaitWord(t, systemd, "STOPPING=1", 1)
	if diff := cmp.Diff(inEffect, programmed(t)); diff != "" {
		t.Errorf("the end changed the kernel (-before +after):\n%s", diff)
	}
	if count(systemd.Notifications(), "READY=1") != 1 || slices.Index(systemd.Notifications(), "STOPPING=1") < slices.Index(systemd.Notifications(), "READY=1") {
		t.Errorf("sent %q", systemd.Notifications())
	}
}

// TestAStartEndsWithTheTrueCause checks that a start ends degraded, and that the status names what is missing.
func TestAStartEndsWithTheTrueCause(t *testing.T) {
	for _, test := range []struct {
		name string
		// source replaces the source of objects if set; more is added to the config.
		source, more string
		// want is what the status names, ready the code of /readyz, forwards whether the Mapping is in effect.
		want     []string
		ready    int
		forwards bool
	}{
		{
			name:   "the relay is out of reach",
			source: "source: {relay: {servers: ['https://127.0.0.1:1'], tokenFile: %s/token}}",
			more:   "startTimeout: 4s", // enough to be refused, on a busy machine too
			want:   []string{"waiting for the first complete list of objects", "127.0.0.1:1: connect: connection refused"},
			ready:  http.StatusServiceUnavailable,
		},
		{
			name:     "a next hop on no link",
			more:     "startTimeout: 10m\nserviceRoutes: [{destination: 10.96.0.0/16, via: [10.99.0.1]}]",
			want:     []string{"1 Mapping programmed", "adding the route (ip route add 10.96.0.0/16 via 10.99.0.1", "no link of this host reaches the gateway [10.99.0.1]"},
			ready:    http.StatusOK,
			forwards: true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			configFile := newHost(t)
			dir := filepath.Dir(configFile)
			text := readFile(t, configFile)
			if test.source != "" {
				lines := strings.SplitAfter(text, "\n")
				lines[1] = fmt.Sprintf(test.source, dir) + "\n"
				text = strings.Join(lines, "")
			}
			for path, content := range map[string]string{configFile: text + test.more + "\n", filepath.Join(dir, "token"): "secret\n"} {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			systemd := supervise(t)
			program := startProgram(t, systemd, configFile)
			awaitWord(t, systemd, "READY=1", 1)
			shown := ""
			for _, word := range systemd.Notifications() {
				if strings.HasPrefix(word, "STATUS=") {
					shown = word
				}
			}
			if !strings.HasPrefix(shown, "STATUS=degraded: ") {
				t.Errorf("the status is %q, want it degraded", shown)
			}
			code, body := getInside(t, "/readyz")
			if code != test.ready {
				t.Errorf("/readyz: %d %s, want %d", code, body, test.ready)
			}
			for _, want := range test.want {
				if !strings.Contains(shown, want) {
					t.Errorf("the status is %q, want %q in it", shown, want)
				}
				if code != http.StatusOK && !strings.Contains(body, want) {
					t.Errorf("/readyz says %q, want %q in it", body, want)
				}
			}
			if _, body := getInside(t, "/metrics"); !strings.Contains(body, "\nsmartnat_degraded 1\n") {
				t.Error("/metrics has no smartnat_degraded 1")
			}
			if forwards := strings.Contains(programmed(t), "-j DNAT"); forwards != test.forwards {
				t.Errorf("forwards: %t, want %t", forwards, test.forwards)
			}
			program.end(t)
		})
	}
}

// TestReadyWhateverIsInRuntimeDir checks that smartnatd forwards even if runtimeDir cannot be written or holds garbage.
func TestReadyWhateverIsInRuntimeDir(t *testing.T) {
	for _, test := range []struct {
		name   string
		make   func(t *testing.T, runtimeDir string)
		logged string
	}{
		{"a full disk", func(t *testing.T, runtimeDir string) {
			if err := unix.Mount("disk", runtimeDir, "tmpfs", 0, "size=4k,mode=755"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(runtimeDir, unix.MNT_DETACH) })
			if err := os.WriteFile(filepath.Join(runtimeDir, "ballast"), make([]byte, 4096), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no space left on device"},
		{"a damaged record of kernel parameters", func(t *testing.T, runtimeDir string) {
			if err := os.WriteFile(filepath.Join(runtimeDir, "sysctls.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "sysctls.json.bad"},
	} {
		t.Run(test.name, func(t *testing.T) {
			configFile := newHost(t)
			runtimeDir := filepath.Join(filepath.Dir(configFile), "run")
			if err := os.Mkdir(runtimeDir, 0o755); err != nil {
				t.Fatal(err)
			}
			test.make(t, runtimeDir)
			systemd := supervise(t)
			program := startProgram(t, systemd, configFile)
			awaitWord(t, systemd, "READY=1", 1)
			if inEffect := programmed(t); !strings.Contains(inEffect, "-j DNAT") || !strings.HasSuffix(inEffect, "\n1\n") {
				t.Errorf("ready, but the kernel has\n%s", inEffect)
			}
			program.awaitLog(t, test.logged, 1)
			if _, err := lockInstance(runtimeDir); err == nil || !strings.Contains(err.Error(), "already running (pid ") {
				t.Errorf("second lock: %v, want an error", err)
			}
			program.end(t)
		})
	}
}

// TestCredentialsThatAreNotWholeYet checks that incomplete credentials make a start fail so that systemd retries, and that a
// reload ignores them.
func TestCredentialsThatAreNotWholeYet(t *testing.T) {
	for _, test := range []struct{ name, source, want string }{
		{"a kubeconfig", "kubeconfig: {path: %s/torn}", "smartnatd: source.kubeconfig: "},
		{"a token", "relay: {servers: ['https://192.0.2.1'], tokenFile: %s/missing}", "smartnatd: source.relay.tokenFile: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			configFile := newHost(t)
			dir := filepath.Dir(configFile)
			right := readFile(t, configFile)
			unready := fmt.Sprintf("instance: gw1\nsource: {"+test.source+"}\nstateDir: %[1]s/state\nruntimeDir: %[1]s/run\n", dir)
			write := func(path, text string) {
				t.Helper()
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(filepath.Join(dir, "torn"), "kind: [")
			systemd := supervise(t)

			write(configFile, unready)
			program := startProgram(t, systemd, configFile)
			_ = program.Wait() // the exit code is checked below
			if code := program.ProcessState.ExitCode(); code != exitFailure || linesWith(program.log.String(), test.want) != 1 {
				t.Errorf("exit code %d, want %d and one line that says %q", code, exitFailure, test.want)
			}

			write(configFile, right)
			program = startProgram(t, systemd, configFile)
			awaitWord(t, systemd, "READY=1", 1)
			write(configFile, unready)
			if err := program.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			awaitWord(t, systemd, "STATUS=1 Mapping programmed; source connected (cannot apply the new config, the previous one stays in effect)", 1)
			program.end(t)
		})
	}
}

// TestHeldFromOneProcessToTheNext checks that the table that holds connections stays the same across processes of smartnatd,
// even if all rules are removed between two of them. It is removed with the service, and replaced if the config asks for
// another one.
func TestHeldFromOneProcessToTheNext(t *testing.T) {
	configFile := newHost(t)
	systemd := supervise(t)
	table := func() string { // without the process name, which nft looks up
		return output(t, "sh", "-c", "{ nft -a list table inet smartnat-hold || nft -a list table ip smartnat-hold; } | sed 's/ progname .*//'")
	}

	program := startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 1)
	held := table()
	for i, end := range []func(*process, *testing.T){(*process).kill, (*process).end, (*process).kill} {
		end(program, t)
		output(t, "nft", "flush", "ruleset")
		if diff := cmp.Diff(held, table()); diff != "" {
			t.Errorf("the table changed without smartnatd and rules (-before +after):\n%s", diff)
		}
		program = startProgram(t, systemd, configFile)
		awaitWord(t, systemd, "READY=1", i+2)
		if diff := cmp.Diff(held, table()); diff != "" {
			t.Errorf("the next smartnatd changed the table (-before +after):\n%s", diff)
		}
	}
	if n := count(systemd.Notifications(), "FDSTORE=1"); n != 1 {
		t.Errorf("a socket was stored %d times, want once", n)
	}

	program.end(t)
	text, err := os.ReadFile(configFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(configFile, append(text, "ipv6: false\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	program = startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 5)
	if held := table(); !strings.Contains(held, "table ip smartnat-hold") {
		t.Errorf("without IPv6 the table is\n%s", held)
	}
	if said := systemd.Notifications(); count(said, "FDSTOREREMOVE=1") != 1 || count(said, "FDSTORE=1") != 2 {
		t.Errorf("sent %q, want one socket removed and two stored", said)
	}
	program.end(t)
	if held := table(); !strings.Contains(held, "table ip smartnat-hold") {
		t.Errorf("after the end the table is\n%s", held)
	}
	if err := systemd.Stop(); err != nil {
		t.Fatal(err)
	}
	if left := output(t, "nft", "list", "tables"); strings.Contains(left, "smartnat-hold") {
		t.Errorf("after the stop of the service the tables are\n%s", left)
	}
}

// newHost moves the test to a host of its own with an uplink and a link to the cluster, and returns a config with one Mapping.
func newHost(t *testing.T) (configFile string) {
	t.Helper()
	for _, program := range []string{"ip", "iptables-save", "nft"} {
		testenv.RequireTool(t, program)
	}
	testenv.NewNetNS(t)
	for _, args := range []string{
		"link add eth1 type veth peer name peer1", "link set eth1 up", "link set peer1 up", "addr add 10.237.94.10/24 dev eth1",
		"link add eth0 type veth peer name peer0", "link set eth0 up", "link set peer0 up", "addr add 10.10.0.2/24 dev eth0",
		"route add 10.96.0.0/16 via 10.10.0.11",
	} {
		output(t, "ip", strings.Fields(args)...)
	}
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	configFile = filepath.Join(dir, "smartnat.yaml")
	text := fmt.Sprintf("instance: gw1\nsource: {files: {paths: [%s/testdata/mapping.yaml, %[1]s/testdata/service.yaml]}}\n"+
		"uplinks: [{interface: eth1}]\nstateDir: %[2]s/state\nruntimeDir: %[2]s/run\n", here, dir)
	if err := os.WriteFile(configFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return configFile
}

// getInside sends a request in the network namespace of the test, whose thread has to dial.
func getInside(t *testing.T, path string) (code int, body string) {
	t.Helper()
	return getAt(t, "127.0.0.1:9470", path)
}

// getAt is getInside for another address of the host.
func getAt(t *testing.T, address, path string) (code int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.Write(conn); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// asProgram has the test binary be smartnatd.
const asProgram = "SMARTNATD_TEST_PROGRAM"

// librariesLog is what the libraries of Kubernetes said: there is one log of theirs for the whole process, so it is set before
// any of them runs.
var librariesLog lines

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	klog.LogToStderr(false)
	klog.SetOutput(&librariesLog)
	testenv.Main(m)
}

// supervisor is systemd: it hears what a service says to it.
type supervisor struct {
	mu   sync.Mutex
	said []string
}

func (s *supervisor) listen(conn *net.UnixConn) {
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.said = append(s.said, strings.Split(string(buffer[:n]), "\n")...)
		s.mu.Unlock()
	}
}

func (s *supervisor) count(word string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, said := range s.said {
		if said == word {
			n++
		}
	}
	return n
}

func (s *supervisor) await(t *testing.T, word string, times int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); s.count(word) < times; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q was not said %d times within 30 s, but %q", word, times, s.said)
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

// programmed is what smartnatd may have written, without comments and counters.
func programmed(t *testing.T) string {
	t.Helper()
	return output(t, "sh", "-ec", `for program in iptables-save ip6tables-save; do $program | sed -e '/^#/d' -e 's/\[[0-9:]*\]//'; done
		ip -4 rule; ip -6 rule; ip -4 route show table all; cat /proc/sys/net/ipv4/ip_forward`)
}

// TestAsSystemdSeesIt runs the whole program on a host of its own: ready when the rules are there, a heartbeat while the worker
// turns, and an end that leaves the rules. That connections cannot be held is said, and stops nothing.
func TestAsSystemdSeesIt(t *testing.T) {
	testenv.RequireTool(t, "ip")
	testenv.RequireTool(t, "iptables-save")
	testenv.RequireTool(t, "nft")
	testenv.NewNetNS(t)
	for _, args := range []string{
		"link add eth1 type veth peer name peer1", "link set eth1 up", "link set peer1 up", "addr add 10.237.94.10/24 dev eth1",
	} {
		output(t, "ip", strings.Fields(args)...)
	}
	output(t, "nft", "add", "table", "inet", "smartnat-hold") // somebody else's
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	configFile := filepath.Join(dir, "smartnat.yaml")
	text := fmt.Sprintf("instance: gw1\nsource: {files: {paths: [%s/testdata/mapping.yaml, %[1]s/testdata/service.yaml]}}\n"+
		"uplinks: [{interface: eth1}]\nstateDir: %[2]s/state\nruntimeDir: %[2]s/run\n", here, dir)
	if err := os.WriteFile(configFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	conn, err := net.ListenUnixgram(address.Net, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var heard supervisor
	go heard.listen(conn)

	program := exec.Command("/proc/self/exe", "--config", configFile)
	program.Env = append(os.Environ(), asProgram+"=1", "NOTIFY_SOCKET="+address.Name, "WATCHDOG_USEC=4000000")
	var log lines
	program.Stdout, program.Stderr = &log, &log
	program.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = program.Process.Kill()
		if t.Failed() {
			t.Logf("smartnatd said:\n%s", &log)
		}
	}()

	heard.await(t, "READY=1", 1)
	inEffect := programmed(t)
	if !strings.Contains(inEffect, "-j DNAT") || !strings.HasSuffix(inEffect, "\n1\n") {
		t.Errorf("ready, but in the kernel is\n%s", inEffect)
	}
	if n := heard.count("STATUS=1 Mapping programmed; source connected"); n != 1 {
		t.Errorf("the status was told %d times, want once, in %q", n, heard.said)
	}
	for path, want := range map[string]string{
		"/livez": "ok\n", "/readyz": "ok\n", "/metrics": "\nsmartnat_mappings_programmed 1\n",
	} {
		if code, body := getInside(t, path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want %q in\n%s", path, code, want, body)
		}
	}
	heard.await(t, "WATCHDOG=1", 2)
	if n := strings.Count(log.String(), "connections end when somebody removes all rules"); n != 1 {
		t.Errorf("that connections are not held was told %d times, want once", n)
	}

	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	heard.await(t, "STOPPING=1", 1)
	if diff := cmp.Diff(inEffect, programmed(t)); diff != "" {
		t.Errorf("the end changed the kernel (-before +after):\n%s", diff)
	}
	if heard.count("READY=1") != 1 || slices.Index(heard.said, "STOPPING=1") < slices.Index(heard.said, "READY=1") {
		t.Errorf("said %q", heard.said)
	}
}

// getInside asks the program in the network namespace of the test, whose thread has to be the one that dials.
func getInside(t *testing.T, path string) (code int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:9470")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://smartnatd"+path, nil)
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

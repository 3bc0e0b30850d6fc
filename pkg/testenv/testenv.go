// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package testenv isolates tests: it runs the test binary again in new mount, PID and network namespaces (and a user
// namespace if the caller is not root), so that changes to links, rules and sysctls disappear with it, even if it is killed.
// Only tests and the lab use it, and it knows nothing of SmartNat.
package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	insideKey = "SMARTNAT_TESTENV"
	// requireAllKey turns every skip for a missing requirement into a failure. `make test` sets it.
	requireAllKey = "SMARTNAT_REQUIRE_ALL"
)

// Main runs m in new namespaces and exits with its status. If namespaces are not available it runs m without them, and
// RequireKernel skips the tests that need them.
func Main(m *testing.M) {
	status, err := Run(m.Run)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testenv: %v\n", err)
		if !Inside() {
			status = m.Run()
		}
	}
	os.Exit(status)
}

// Inside reports whether this process runs in the namespaces that Run creates.
func Inside() bool { return os.Getenv(insideKey) != "" }

// Run executes this program again with the same arguments in new namespaces, where Run calls program, and returns its status.
// If it returns an error, program was not called.
func Run(program func() int) (status int, err error) {
	if Inside() {
		if err := prepareMounts(); err != nil {
			return 1, err
		}
		return program(), nil
	}
	// The child dies with this thread (prctl(2), PR_SET_PDEATHSIG), so keep the thread alive.
	runtime.LockOSThread()
	err = runInside()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), nil
	}
	return 1, fmt.Errorf("running in new namespaces: %w", err)
}

func runInside() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideKey+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		Pdeathsig:  unix.SIGKILL,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd.Run()
}

// prepareMounts mounts a new /proc, and an empty /run for private locks and named network namespaces.
func prepareMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	return nil
}

// RequireKernel skips the test with a message unless it runs in the namespaces of Main, and also with -short. It fails the
// test if requireAllKey is set.
func RequireKernel(t testing.TB) {
	t.Helper()
	if testing.Short() {
		missing(t, "needs the kernel, which -short excludes")
	}
	if !Inside() {
		missing(t, "needs network namespaces: run as root, or where user namespaces are allowed")
	}
}

// RequireTool skips the test with a message unless the program is installed. It fails the test if requireAllKey is set.
func RequireTool(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		missing(t, fmt.Sprintf("needs the program %s, which `make setup` installs or `make test` builds", program))
	}
}

// Lacks skips the test with a message: the running kernel lacks a required feature that `make setup` cannot install.
func Lacks(t testing.TB, what string) {
	t.Helper()
	t.Skipf("SKIPPED: the kernel lacks %s", what)
}

// RequireFlowtable skips the test with a message if the running kernel lacks flowtables, or the lookup of routes by rules. The test
// must be in a network namespace of its own.
func RequireFlowtable(t testing.TB) {
	t.Helper()
	RequireTool(t, "nft")
	try := exec.Command("nft", "-f", "-")
	try.Stdin = strings.NewReader(`
table ip testenv-flowtable {
	flowtable f {
		hook ingress priority 0
		devices = { lo }
	}
	chain c {
		type filter hook forward priority 0
		fib saddr . mark . iif oif exists flow add @f
	}
}
delete table ip testenv-flowtable
`)
	if out, err := try.CombinedOutput(); err != nil {
		Lacks(t, fmt.Sprintf("flowtables: %v: %s", err, bytes.Join(bytes.Fields(out), []byte(" "))))
	}
}

// RequireRangesByText skips the test with a message if nft(8) cannot load a lookup of a protocol among ranges. nft(8) 1.0.6 adds a
// conversion of one byte to it, which newer kernels refuse. The test must be in a network namespace of its own.
func RequireRangesByText(t testing.TB) {
	t.Helper()
	RequireTool(t, "nft")
	try := exec.Command("nft", "-f", "-")
	try.Stdin = strings.NewReader(`
table ip testenv-ranges {
	set s {
		type ipv4_addr . inet_proto . inet_service
		flags interval
	}
	chain c {
		ip daddr . meta l4proto . th dport @s drop
	}
}
delete table ip testenv-ranges
`)
	if out, err := try.CombinedOutput(); err != nil {
		Lacks(t, fmt.Sprintf("lookups among ranges as this nft(8) spells them: %v: %s", err, bytes.Join(bytes.Fields(out), []byte(" "))))
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(requireAllKey) != "" {
		t.Fatalf("%s (and %s is set)", what, requireAllKey)
	}
	t.Skipf("SKIPPED: %s", what)
}

// NewNetNS moves the test's goroutine, its OS thread and the programs that it starts into a new network namespace, in which
// only lo exists and is up, until the test ends. The test must not be parallel and must stay on its goroutine.
func NewNetNS(t testing.TB) {
	t.Helper()
	RequireKernel(t)
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatalf("reading the current network namespace: %v", err)
	}
	inside, err := netns.New()
	if err != nil {
		t.Fatalf("creating a network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(netns.Set(before), before.Close(), inside.Close()); err != nil {
			t.Errorf("leaving the network namespace: %v", err)
		}
		runtime.UnlockOSThread()
	})
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatalf("finding lo: %v", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatalf("bringing lo up: %v", err)
	}
}

// Go runs f, which may block, on a new goroutine in the network namespace of the test. The channel is closed when f returns.
func Go(t testing.TB, f func()) (done <-chan struct{}) {
	t.Helper()
	ns, err := netns.Get()
	if err != nil {
		t.Fatalf("reading the current network namespace: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer func() { _ = ns.Close() }()
		if err := netns.Set(ns); err != nil {
			t.Errorf("entering the network namespace: %v", err)
			return
		}
		f()
	}()
	return ended
}

// In is InNetNS for tests, which an error ends.
func In(t testing.TB, name string, do func() error) {
	t.Helper()
	if err := InNetNS(name, do); err != nil {
		t.Fatal(err)
	}
}

// InNetNS runs do in the named network namespace. Sockets that it opens stay in that namespace.
func InNetNS(name string, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(name)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("in the network namespace %s: %w", name, err)
	}
	return nil
}

// AwaitLocal waits until the kernel treats the addresses as local. For IPv6 this happens only after the kernel noticed the
// carrier, in the background. It then adds routes, which would disturb a test that compares the state before and after.
func AwaitLocal(t testing.TB, addresses ...string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, address := range addresses {
		for !isLocal(t, address) {
			if time.Now().After(deadline) {
				t.Fatalf("%s did not become an address of this host", address)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func isLocal(t testing.TB, address string) bool {
	t.Helper()
	routes, err := netlink.RouteGet(net.ParseIP(address))
	if err != nil && !errors.Is(err, unix.ENETUNREACH) {
		t.Fatalf("looking up the route to %s: %v", address, err)
	}
	return len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// programKey makes the test binary run a lab until it is killed.
const programKey = "SMARTNAT_LAB_TEST_PROGRAM"

const upMessage = "up"

func program() int {
	status, err := lab.Run(func() int {
		l, err := lab.Start(context.Background(), lab.WithoutControlPlane())
		if err == nil {
			_, err = l.Host(lab.Node1).Start("stubborn", nil, "sh", "-c", "trap '' INT TERM HUP; while :; do sleep 1; done")
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(upMessage)
		select {}
	})
	if err != nil {
		fmt.Println(err)
	}
	return status
}

// world is what a lab could leave behind. The outside is the namespaces of the tests, which no other process uses.
type world struct {
	Links, NetworkNamespaces, Temporary []string
	Mounts                              string
	ForeignProcesses                    int
}

func observe(t *testing.T, temporary string) world {
	t.Helper()
	var w world
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		w.Links = append(w.Links, link.Attrs().Name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	w.Mounts = string(mounts)
	for pattern, names := range map[string]*[]string{
		"/run/*": &w.NetworkNamespaces, "/run/netns/*": &w.NetworkNamespaces, temporary + "/*": &w.Temporary,
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		*names = append(*names, found...)
	}
	w.ForeignProcesses = foreignProcesses(t)
	return w
}

// foreignProcesses counts processes in other PID namespaces. Zombies do not count: this process is the init of its PID
// namespace and leaves reaping to the kernel.
func foreignProcesses(t *testing.T) int {
	t.Helper()
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, process := range all {
		status, err := os.ReadFile(filepath.Join(process, "status"))
		if err != nil || strings.Contains(string(status), "State:\tZ") {
			continue
		}
		if theirs, err := os.Readlink(filepath.Join(process, "ns/pid")); err == nil && theirs != ours {
			count++
		}
	}
	return count
}

func TestNothingIsLeftBehind(t *testing.T) {
	testenv.RequireKernel(t)
	for _, signal := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			ctx := testContext(t, 2*time.Minute)
			temporary := t.TempDir()
			before := observe(t, temporary)
			cmd := osexec.CommandContext(ctx, "/proc/self/exe")
			cmd.Env = append(os.Environ(), programKey+"=1", "SMARTNAT_TESTENV=", "TMPDIR="+temporary)
			output, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			reader := bufio.NewReader(output)
			if line, err := reader.ReadString('\n'); err != nil || line != upMessage+"\n" {
				rest, _ := io.ReadAll(reader)
				t.Fatalf("the lab did not start: %s%s %v", line, rest, err)
			}
			if n := foreignProcesses(t); n < 2 {
				t.Fatalf("%d processes in the lab, want its own and one of a host", n)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed by the signal
			if err := lab.Poll(ctx, func(context.Context) error {
				if n := foreignProcesses(t); n > 0 {
					return fmt.Errorf("%d processes are still running", n)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, observe(t, temporary)); diff != "" {
				t.Errorf("leftovers (-before +after):\n%s", diff)
			}
		})
	}
}

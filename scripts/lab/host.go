// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a machine or a pod: a named network namespace, which `ip netns` lists too, and a mount namespace with its own /run,
// /etc and /var/lib and the /sys of its network.
type Host struct {
	// Name is the name in the lab.
	Name string

	ns netns.NsHandle
	// namespaces is the directory in /proc with the host's namespaces.
	namespaces string
	// path is the host's PATH.
	path string
	// calls are functions for the thread that is in all of the host's namespaces.
	calls chan func()
	run   *runner
}

// newHost creates a host without links.
func newHost(name string, run *runner) (*Host, error) {
	h := &Host{Name: name, path: os.Getenv("PATH"), calls: make(chan func()), run: run}
	ready := make(chan error)
	go h.live(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("creating host %s: %w", name, err)
	}
	return h, nil
}

// live enters new namespaces and runs calls in them until the host is closed. Its thread stays locked, so it ends with the
// goroutine.
func (h *Host) live(ready chan<- error) {
	runtime.LockOSThread()
	ns, err := netns.NewNamed(h.Name)
	if err == nil {
		h.ns = ns
		err = h.mounts()
	}
	if err == nil {
		err = h.writeEnterFile()
	}
	ready <- err
	if err != nil {
		return
	}
	for call := range h.calls {
		call()
	}
}

// mounts sets up the host's own directories for the calling thread.
func (h *Host) mounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("creating a mount namespace: %w", err)
	}
	dir := hostDir(h.Name)
	for _, sub := range []string{"run/lab", "etc/upper", "etc/work", "lib/upper", "lib/work"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	overlay := func(sub, lower string) string {
		return fmt.Sprintf("lowerdir=%s,upperdir=%s/%s/upper,workdir=%s/%s/work", lower, dir, sub, dir, sub)
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"etc", "/etc", "overlay", 0, overlay("etc", "/etc")},
		{"lib", "/var/lib", "overlay", 0, overlay("lib", "/var/lib")},
		// All hosts share the lab's programs and certificates, which stay in place.
		{workDir, dir + "/run/lab", "", unix.MS_BIND, ""},
		{dir + "/run", "/run", "", unix.MS_BIND | unix.MS_REC, ""},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	h.namespaces = fmt.Sprintf("/proc/%d/task/%d/ns", os.Getpid(), unix.Gettid())
	return nil
}

// hostDir is the directory with the host's own files.
func hostDir(host string) string { return filepath.Join(workDir, "hosts", host) }

// EnterFile returns the path of a shell script that sets the host's namespaces and PATH, for a shell in the lab's namespaces.
func EnterFile(host string) string { return filepath.Join(hostDir(host), "enter") }

// addPath adds a directory to the beginning or the end of the host's PATH.
func (h *Host) addPath(dir string, first bool) error {
	if first {
		h.path = dir + string(filepath.ListSeparator) + h.path
	} else {
		h.path += string(filepath.ListSeparator) + dir
	}
	return h.writeEnterFile()
}

func (h *Host) writeEnterFile() error {
	text := fmt.Sprintf("namespaces='%s'\nPATH='%s'\n", h.namespaces, h.path)
	return os.WriteFile(EnterFile(h.Name), []byte(text), 0o644)
}

// close ends the host's thread and namespaces. Its processes must have ended.
func (h *Host) close() error {
	close(h.calls)
	return errors.Join(h.ns.Close(), netns.DeleteNamed(h.Name))
}

// do runs fn in all of the host's namespaces. Only one fn runs at a time, so it must not wait for the network.
func (h *Host) do(fn func() error) error {
	result := make(chan error)
	h.calls <- func() { result <- fn() }
	return <-result
}

// Do runs fn in the host's network namespace on a separate thread. Sockets that fn opens stay in that namespace.
func (h *Host) Do(fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(h.ns); err != nil {
			result <- fmt.Errorf("entering %s: %w", h.Name, err)
			return
		}
		result <- fn()
	}()
	return <-result
}

// SetSysctl writes a sysctl ("net.ipv4.ip_forward") of the host.
func (h *Host) SetSysctl(name, value string) error {
	return h.do(func() error { return os.WriteFile(sysctlPath(name), []byte(value), 0) })
}

// Sysctl reads a sysctl of the host.
func (h *Host) Sysctl(name string) (value string, err error) {
	err = h.do(func() error {
		text, err := os.ReadFile(sysctlPath(name))
		value = strings.TrimSpace(string(text))
		return err
	})
	return value, err
}

func sysctlPath(name string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
}

// WriteFile writes a file in the host's file system and creates its parent directories.
func (h *Host) WriteFile(path, text string) error {
	return h.do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(text), 0o644)
	})
}

// ReadFile reads a file in the host's file system.
func (h *Host) ReadFile(path string) (text string, err error) {
	err = h.do(func() error {
		content, err := os.ReadFile(path)
		text = string(content)
		return err
	})
	return text, err
}

// Exec runs a program on the host and returns its output from both streams. An error includes the output.
func (h *Host) Exec(ctx context.Context, argv ...string) (string, error) {
	return h.ExecInput(ctx, "", argv...)
}

// ExecInput is like Exec with text for standard input.
func (h *Host) ExecInput(ctx context.Context, input string, argv ...string) (string, error) {
	output, _, err := h.exec(ctx, input, argv)
	return output, err
}

// ExecUsage is like ExecInput but returns the program's processor time.
func (h *Host) ExecUsage(ctx context.Context, input string, argv ...string) (time.Duration, error) {
	_, used, err := h.exec(ctx, input, argv)
	return used, err
}

func (h *Host) exec(ctx context.Context, input string, argv []string) (string, time.Duration, error) {
	var output strings.Builder
	cmd, err := h.command(ctx, argv)
	if err != nil {
		return "", 0, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &output, &output
	if err := h.do(cmd.Start); err != nil {
		return "", 0, fmt.Errorf("%s: starting %s: %w", h.Name, argv[0], err)
	}
	err = cmd.Wait()
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err != nil {
		err = fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(argv, " "), err, strings.TrimSpace(output.String()))
	}
	return output.String(), used, err
}

// command prepares a program, which the host's thread must start. When ctx ends, the program and its children are killed.
func (h *Host) command(ctx context.Context, argv []string) (*exec.Cmd, error) {
	program, err := h.lookPath(argv[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+h.path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd, nil
}

// lookPath is exec.LookPath for the host's PATH.
func (h *Host) lookPath(program string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, dir := range filepath.SplitList(h.path) {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: no program %s in %s", h.Name, program, h.path)
}

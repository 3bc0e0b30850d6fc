// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Booted is a host on which systemd is the first process.
type Booted struct {
	// System is systemd-nspawn. Its log has the journal.
	System *Process
	root   string
	// init is the process ID of systemd in the lab's PID namespace.
	init string
}

// Boot boots a copy of this machine's own system on a host, with systemd as its first process. It needs systemd-nspawn, and returns
// when all units have started. The copy has the host's network, the lab's /run/lab, and no service that was enabled on this machine.
// Its writes stay in memory. Booted.Exec runs programs in it, and Host.Exec outside.
func (l *Lab) Boot(ctx context.Context, name string) (*Booted, error) {
	host, dir := l.Host(name), filepath.Join(workDir, "boot-"+name)
	b := &Booted{root: filepath.Join(dir, "root")}
	if err := b.copySystem(dir); err != nil {
		return nil, fmt.Errorf("copying this system for %s: %w", name, err)
	}
	var err error
	b.System, err = host.start(ctx, command{
		name:    "systemd",
		outside: true, // the /sys of a host has no control groups
		argv: []string{
			"systemd-nspawn", "--quiet", "--boot", "--directory=" + b.root,
			"--machine=" + name, "--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
			"--network-namespace-path=" + host.namespaces + "/net", "--capability=CAP_NET_ADMIN", "--bind=" + workDir + ":" + workDir + ":norbind",
		},
		env: []string{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=network"}, // otherwise /proc/sys/net is read-only
	})
	if err != nil {
		return nil, err
	}
	return b, b.System.until(ctx, b.started)
}

// copySystem lays a writable layer over this machine's files, and disables all units that were enabled here.
func (b *Booted) copySystem(dir string) error {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, sub := range []string{upper, work, b.root} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", b.root, "overlay", 0, fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", upper, work)); err != nil {
		return fmt.Errorf("mounting %s: %w", b.root, err)
	}
	units := filepath.Join(b.root, "etc/systemd/system")
	if err := errors.Join(os.RemoveAll(units), os.Mkdir(units, 0o755)); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"machine-id":                       "", // systemd makes one, and does not take this for the first boot
		"fstab":                            "",
		"systemd/journald.conf.d/lab.conf": "[Journal]\nForwardToConsole=yes\n",
	} {
		file := filepath.Join(b.root, "etc", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// started finds systemd among the children of systemd-nspawn, and returns nil when it has started all units.
func (b *Booted) started(ctx context.Context) error {
	pid := strconv.Itoa(b.System.PID())
	children, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil {
		return err
	}
	err = errors.New("systemd-nspawn has no child")
	for _, b.init = range strings.Fields(string(children)) {
		var out string
		// It says "degraded" if a unit failed, as some of this machine's own may do in a container.
		if out, err = b.Exec(ctx, "systemctl", "is-system-running"); err == nil || strings.TrimSpace(out) == "degraded" {
			return nil
		}
	}
	return fmt.Errorf("systemd has not started: %w", err)
}

// Exec runs a program of the booted system as root and returns its output from both streams. An error includes the output.
func (b *Booted) Exec(ctx context.Context, argv ...string) (string, error) {
	enter := []string{
		"nsenter", "--target", b.init, "--mount", "--uts", "--ipc", "--net", "--pid",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
	}
	return b.System.host.Exec(ctx, append(enter, argv...)...)
}

// Stop shuts the system down and removes its files.
func (b *Booted) Stop(ctx context.Context) error {
	return errors.Join(b.System.Stop(ctx), unix.Unmount(b.root, unix.MNT_DETACH))
}

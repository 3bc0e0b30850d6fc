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
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PairConfig returns the config of one gateway of a pair, without source. ha has more keys of ha, and more has more keys of the config.
func PairConfig(host, ha, more string) string {
	own, peer := []string{SyncAddress, External1, External1v6, GatewayAddress, GatewayAddress6},
		[]string{SyncAddress2, Gateway2External, Gateway2Externalv6, Gateway2Address, Gateway2Address6}
	priority := 150
	if host == Gateway2 {
		own, peer, priority = peer, own, 100
	}
	if ha != "" {
		ha = "  " + ha + "\n"
	}
	return fmt.Sprintf(`instance: %s
uplinks: [{interface: eth1}]
ha:
  syncLink: eth3
  syncAddress: %s
  peer: %s
  priority: %d
%s  links:
  - {interface: eth1, virtualAddresses: [%s, "%s"], addresses: [%s, "%s"], peers: [%s, "%s"]}
  - {interface: eth0, virtualAddresses: [%s, "%s"], addresses: [%s, "%s"], peers: [%s, "%s"]}
%s`, host, own[0], peer[0], priority, ha, VirtualExternal, VirtualExternalv6, own[1], own[2], peer[1], peer[2],
		VirtualInside, VirtualInside6, own[3], own[4], peer[3], peer[4], more)
}

// PairLinks are the links of a Box: inside, uplink, sync.
func PairLinks() []string { return []string{"eth0", "eth1", "eth3"} }

// VirtualAddresses are those of a pair.
func VirtualAddresses() []string {
	return []string{VirtualExternal, VirtualExternalv6, VirtualInside, VirtualInside6}
}

// Box is one gateway of a pair with its programs.
type Box struct {
	Host                              string
	Smartnatd, Keepalived, Conntrackd *Process

	lab *Lab
}

// Box returns one of the gateways of a pair. None of its programs runs yet.
func (l *Lab) Box(host string) *Box { return &Box{Host: host, lab: l} }

// exec runs a command on the host.
func (b *Box) exec(ctx context.Context, argv ...string) (string, error) {
	return b.lab.Host(b.Host).Exec(ctx, argv...)
}

// Start starts smartnatd with this config, and conntrackd with a rendered file.
func (b *Box) Start(ctx context.Context, config string) (err error) {
	if b.Smartnatd, err = b.lab.StartGatewayOn(ctx, b.Host, config); err != nil {
		return err
	}
	if _, err := b.lab.SmartnatdOn(ctx, b.Host, "ha", "render", "--output", "/etc"); err != nil {
		return err
	}
	return b.Copy(ctx)
}

// Copy starts conntrackd, and returns when it answers.
func (b *Box) Copy(ctx context.Context) (err error) {
	const config = "/etc/conntrackd/conntrackd.conf"
	if b.Conntrackd, err = b.lab.Host(b.Host).Start("conntrackd", nil, "conntrackd", "-C", config); err != nil {
		return err
	}
	return Poll(ctx, func(ctx context.Context) error {
		_, err := b.exec(ctx, "conntrackd", "-C", config, "-s", "network")
		return err
	})
}

// Vote starts keepalived.
func (b *Box) Vote() (err error) {
	b.Keepalived, err = b.lab.Host(b.Host).Start("keepalived", nil, "keepalived", "--dont-fork", "--log-console")
	return err
}

// KillKeepalived kills keepalived with its children, which leaves its addresses and its files.
func (b *Box) KillKeepalived() error {
	parent := b.Keepalived.PID()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	var children []int
	for _, path := range stats {
		text, _ := os.ReadFile(path) // it may have ended
		pid, ppid, state := 0, 0, ""
		if _, err := fmt.Sscanf(string(text), "%d (keepalived) %s %d", &pid, &state, &ppid); err == nil && ppid == parent {
			children = append(children, pid)
		}
	}
	errs := []error{b.Keepalived.Kill()} // before its children, which it would start again
	for _, child := range children {
		if err := unix.Kill(child, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Crash ends all programs at once, and removes what a reboot does not keep.
func (b *Box) Crash(ctx context.Context) error {
	if err := errors.Join(b.KillKeepalived(), b.Conntrackd.Kill(), b.Smartnatd.Kill()); err != nil {
		return err
	}
	script := `conntrack -F; rm -rf /run/conntrackd.* /run/keepalived* /run/*.pid /run/smartnat; nft flush ruleset;`
	for _, link := range []string{"eth0", "eth1"} {
		script += "for a in " + strings.Join(VirtualAddresses(), " ") + "; do ip address del $a dev " + link + "; done;"
	}
	_, err := b.exec(ctx, "sh", "-c", script+"mkdir /run/smartnat")
	return err
}

// Holds reports whether the box has all virtual addresses.
func (b *Box) Holds(ctx context.Context) (bool, error) {
	out, err := b.exec(ctx, "ip", "-brief", "address")
	for _, a := range VirtualAddresses() {
		if !strings.Contains(out, " "+a+"/") {
			return false, err
		}
	}
	return true, err
}

// AwaitPrimary waits until the box has all virtual addresses.
func (b *Box) AwaitPrimary(ctx context.Context) error {
	err := Poll(ctx, func(ctx context.Context) error {
		held, err := b.Holds(ctx)
		if err == nil && !held {
			err = errors.New("not all virtual addresses are there")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s does not become primary: %w", b.Host, err)
	}
	return nil
}

// AwaitCopies waits until the kernel of the box knows TCP connections.
func (b *Box) AwaitCopies(ctx context.Context, flows []*Flow) error {
	return Poll(ctx, func(ctx context.Context) error {
		// Its message about the number of entries would land inside a line of a long list.
		out, err := b.exec(ctx, "sh", "-c", "exec 2>/dev/null; conntrack -L -p tcp --state ESTABLISHED; conntrack -L -f ipv6 -p tcp --state ESTABLISHED")
		if err != nil {
			return err
		}
		for _, f := range flows {
			from, to := addrPort(f.Conn.LocalAddr()), addrPort(f.Conn.RemoteAddr())
			// An earlier connection may have had the same port.
			if !strings.Contains(out, fmt.Sprintf(" src=%s dst=%s sport=%d dport=%d ", from.Addr(), to.Addr(), from.Port(), to.Port())) {
				return fmt.Errorf("%s has no copy of the connection from %s to %s among %d lines", b.Host, from, to, strings.Count(out, "\n"))
			}
		}
		return nil
	})
}

// AwaitFit waits until the box says that all is well with the pair.
func (b *Box) AwaitFit(ctx context.Context) error {
	said := ""
	err := Poll(ctx, func(ctx context.Context) error {
		out, err := b.lab.SmartnatdOn(ctx, b.Host, "ha", "check")
		if out != "" {
			said = out
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", b.Host, err, said)
	}
	return nil
}

// SetSilent cuts all links of the box in silence, or connects them again.
func (b *Box) SetSilent(silent bool) error {
	var errs []error
	for _, link := range PairLinks() {
		errs = append(errs, b.lab.SetSilent(b.Host, link, silent))
	}
	return errors.Join(errs...)
}

// RestartKeepalived starts a killed keepalived as systemd does with the rendered unit: after RestartSec, with the commands before and after.
func (b *Box) RestartKeepalived(ctx context.Context) error {
	run := func(key string) error {
		_, err := b.exec(ctx, "sh", "-c", "{ sed -n 's/^"+key+"=-//p' /etc/systemd/system/keepalived.service.d/smartnat.conf; echo true; } | sh")
		return err
	}
	stopErr := run("ExecStopPost")
	time.Sleep(100 * time.Millisecond)
	return errors.Join(stopErr, run("ExecStartPre"), b.Vote())
}

// SetSplit cuts the boxes off from each other on all links, or connects them again. All other hosts reach both.
func (l *Lab) SetSplit(ctx context.Context, split bool) error {
	const table = "lab-split"
	argv := []string{"delete", "table", "bridge", table}
	if split {
		text := "add table bridge " + table + "; add chain bridge " + table + " between { type filter hook forward priority 0; };"
		for _, from := range []string{Gateway, Gateway2} {
			to := Gateway2
			if from == Gateway2 {
				to = Gateway
			}
			for _, link := range PairLinks() {
				text += fmt.Sprintf("add rule bridge %s between iifname %q oifname %q drop;", table, cableName(from, link), cableName(to, link))
			}
		}
		argv = []string{text}
	}
	if out, err := exec.CommandContext(ctx, "nft", argv...).CombinedOutput(); err != nil {
		return fmt.Errorf("splitting the pair: %w: %s", err, out)
	}
	return nil
}

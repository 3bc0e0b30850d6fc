// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/rtnetlink"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

func (c *checker) credentials(context.Context) []check.Line {
	return check.Credentials(credentials(c.cfg.Source), time.Now())
}

// credentials reads the credential files of the source. It skips a file that cannot be read, which the config check reports.
func credentials(source config.Source) []check.Credential {
	files := []check.Credential{}
	add := func(key, path string, secret bool) {
		info, err := os.Stat(path)
		if err != nil {
			return
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return
		}
		files = append(files, check.Credential{Key: key, Path: path, Mode: info.Mode(), Content: content, Secret: secret})
	}
	if r := source.Relay; r != nil {
		add("source.relay.tokenFile", r.TokenFile, true)
		add("source.relay.certFile", r.CertFile, false)
		add("source.relay.keyFile", r.KeyFile, true)
		add("source.relay.caFile", r.CAFile, false)
	}
	if k := source.Kubeconfig; k != nil {
		add("source.kubeconfig.path", k.Path, true)
	}
	return files
}

// privileges checks CAP_NET_ADMIN, which the systemd unit grants and the kernel requires. The user does not matter.
func (c *checker) privileges(context.Context) []check.Line {
	return check.Errors("privileges", checkPrivileges())
}

func checkPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading the capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("CAP_NET_ADMIN is missing: run as root, or by the systemd unit")
	}
	return nil
}

func (c *checker) iptables(ctx context.Context) []check.Line {
	var err error
	if c.tables, err = newIPTables(c.cfg); err != nil {
		return check.Errors("iptables", err)
	}
	what := fmt.Sprintf("iptables (%s)", c.tables.Variant())
	other, err := c.tables.OtherVariantRules(ctx)
	switch {
	case err != nil:
		return check.Errors(what, err)
	case other != "":
		return []check.Line{{Level: check.Warning, What: what, Text: other + ", and the kernel runs the rules of both variants: set iptables.variant to what the others use"}}
	}
	return check.Errors(what, nil)
}

// rules tries all features in a separate network namespace. That is a valid test, because a module that a rule needs is loaded
// for the whole kernel.
func (c *checker) rules(ctx context.Context) []check.Line {
	if c.tables == nil {
		return nil // already reported
	}
	var lines []check.Line
	err := host.InNewNamespace(func() error {
		osRelease, _ := os.ReadFile("/etc/os-release") // advice is generic without it
		try := func(state gateway.State) error {
			return newIPTablesRuleset(c.cfg, c.tables, c.tables, nil).Try(ctx, state)
		}
		lines = check.Rules(check.Features(c.cfg.ClampMSS), try, string(osRelease), kernelRelease())
		return nil
	})
	if err != nil {
		return []check.Line{{Level: check.Warning, What: "iptables rules", Text: fmt.Sprintf("not tried: %v; run check as root", err)}}
	}
	return lines
}

func kernelRelease() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return ""
	}
	return unix.ByteSliceToString(uts.Release[:])
}

func (c *checker) forwardPolicy(ctx context.Context) []check.Line {
	if c.tables == nil || checkPrivileges() != nil {
		return nil // already reported
	}
	var lines []check.Line
	for _, family := range c.tables.Families() {
		tables, err := c.tables.Save(ctx, family)
		if err != nil {
			lines = append(lines, check.Errors(fmt.Sprintf("IPv%d tables", family), err)...)
			continue
		}
		lines = append(lines, check.ForwardPolicy(tables)...)
	}
	return lines
}

// forwardHook checks the nf_tables chains of other programs.
func (c *checker) forwardHook(context.Context) []check.Line {
	if c.tables == nil || checkPrivileges() != nil {
		return nil // already reported
	}
	dropping, err := host.DroppingForwards(c.cfg.Ownership)
	if err != nil {
		return check.Errors("nftables", err)
	}
	chains := make([]check.BaseChain, 0, len(dropping))
	for _, d := range dropping {
		chains = append(chains, check.BaseChain(d))
	}
	return check.ForwardHook(chains, c.tables.Variant(), c.cfg.Ownership)
}

func (c *checker) conntrack(context.Context) []check.Line {
	settings := sysctl.New(c.cfg.RuntimeDir)
	read := func(name string) (int, error) {
		text, err := settings.Get("net/netfilter/" + name)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(text)
	}
	count, err := read("nf_conntrack_count")
	if errors.Is(err, fs.ErrNotExist) {
		return []check.Line{{Level: check.OK, What: "conntrack", Text: "not loaded yet: the first rule loads it"}}
	}
	limit, limitErr := read("nf_conntrack_max")
	if err := errors.Join(err, limitErr); err != nil {
		return check.Errors("conntrack", err)
	}
	return check.Conntrack(count, limit)
}

func (c *checker) ipRules(context.Context) []check.Line {
	others, err := rtnetlink.New(c.cfg.Ownership).OtherRules()
	if err != nil {
		return check.Errors("ip rules", err)
	}
	rules := make([]check.IPRule, 0, len(others))
	for _, r := range others {
		rule := check.IPRule{Family: gateway.IPv4, Priority: r.Priority, Text: r.Text}
		if r.IPv6 {
			rule.Family = gateway.IPv6
		}
		rules = append(rules, rule)
	}
	return check.IPRules(rules, c.cfg.Ownership)
}

// networkd returns nothing if systemd-networkd does not run.
func (c *checker) networkd(context.Context) []check.Line {
	root := os.DirFS("/")
	if _, err := fs.Stat(root, "run/systemd/netif/state"); err != nil {
		return nil
	}
	return check.Networkd(networkdConfig(root))
}

// networkdConfig returns the files that apply, in the order of networkd.conf(5): one main file, then the drop-ins by name. A
// file in an earlier folder replaces one of the same name in a later folder.
func networkdConfig(root fs.FS) []string {
	folders := []string{"etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"}
	var texts []string
	for _, folder := range folders {
		if text, err := fs.ReadFile(root, path.Join(folder, "networkd.conf")); err == nil {
			texts = append(texts, string(text))
			break
		}
	}
	dropIns := map[string]string{}
	for _, folder := range slices.Backward(folders) {
		files, _ := fs.Glob(root, path.Join(folder, "networkd.conf.d", "*.conf")) // the pattern is valid
		for _, file := range files {
			dropIns[path.Base(file)] = file
		}
	}
	for _, name := range slices.Sorted(maps.Keys(dropIns)) {
		if text, err := fs.ReadFile(root, dropIns[name]); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}

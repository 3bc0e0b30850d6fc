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
	"github.com/smartnat/smartnat/pkg/iptables/program"
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
	if k := source.Kubeconfig; k != nil && k.Path != "" {
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

// dataplane checks which data plane smartnatd chooses here.
func (c *checker) dataplane(ctx context.Context) []check.Line {
	var err error
	if c.chosen, err = choosePlane(c.cfg, tryOnce(c.cfg.RuntimeDir, true, func(programs *program.Runner) error { return c.tryIPTables(ctx, programs) })); err != nil {
		if isMissing(err) {
			err = fmt.Errorf("%w; or set dataplane: nftables, which needs no program", err)
		}
		return check.Errors("iptables", err)
	}
	lines := []check.Line{{Level: check.OK, What: "dataplane", Text: c.chosen.name + ", because " + c.chosen.reason}}
	if c.chosen.programs == nil {
		return lines
	}
	what := fmt.Sprintf("iptables (%s)", c.chosen.programs.Variant())
	other, err := c.chosen.programs.OtherVariantRules(ctx)
	switch {
	case err != nil:
		return append(lines, check.Errors(what, err)...)
	case other != "":
		return append(lines, check.Line{Level: check.Warning, What: what, Text: other + ", and the kernel runs the rules of both variants: set iptables.variant to what the others use"})
	}
	return append(lines, check.Errors(what, nil)...)
}

// tryIPTables tries a rule in a separate network namespace. That is a valid test, because a module that a rule needs is loaded
// for the whole kernel.
func (c *checker) tryIPTables(ctx context.Context, programs *program.Runner) error {
	return host.InNewNamespace(func() error { return tryIPTables(ctx, c.cfg, programs) })
}

// rules tries all features of the data plane in a separate network namespace.
func (c *checker) rules(ctx context.Context) []check.Line {
	if c.chosen.name == "" {
		return nil // already reported
	}
	var lines []check.Line
	err := host.InNewNamespace(func() error {
		osRelease, _ := os.ReadFile("/etc/os-release") // advice is generic without it
		var planes dataplanes
		defer planes.close()
		tried, _, err := planes.dataplane(c.cfg, c.chosen, c.chosen.programs, nil)
		if err != nil {
			return err
		}
		try := func(state gateway.State) error { return tried.Try(ctx, state) }
		lines = check.Rules(c.chosen.name, check.Features(c.cfg.ClampMSS, c.cfg.EndpointChoice == config.ChoiceMaglev), try, string(osRelease), kernelRelease())
		return nil
	})
	if err != nil {
		return []check.Line{{Level: check.Warning, What: c.chosen.name + " rules", Text: fmt.Sprintf("not tried: %v; run check as root", err)}}
	}
	return lines
}

// flowtable checks whether established connections bypass the rules. It tries that in a separate network namespace.
func (c *checker) flowtable(context.Context) []check.Line {
	if c.chosen.name != config.DataplaneNFTables || checkPrivileges() != nil {
		return nil // already reported, or not applicable
	}
	var why error
	if err := host.InNewNamespace(func() error { why = c.chosen.flowtable(c.cfg); return nil }); err != nil {
		return check.Errors("flowtable", err)
	}
	for _, read := range []func(gateway.Ownership) (gateway.OtherChains, error){host.ReadChains, host.ReadLegacyChains} {
		chains, err := read(c.cfg.Ownership)
		if err != nil {
			return check.Errors("flowtable", err)
		}
		if queued, forbids := chains.ForbidsFlowtable(); why == nil && forbids {
			why = errors.New(queued)
		}
	}
	return check.Flowtable(why)
}

func kernelRelease() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return ""
	}
	return unix.ByteSliceToString(uts.Release[:])
}

// forwardPolicy checks what rules of iptables do to connections of Mappings.
func (c *checker) forwardPolicy(ctx context.Context) []check.Line {
	if c.chosen.name == "" || checkPrivileges() != nil {
		return nil // already reported
	}
	if c.chosen.programs == nil {
		return c.forwardTables(ctx)
	}
	var lines []check.Line
	for _, family := range c.chosen.programs.Families() {
		tables, err := c.chosen.programs.Save(ctx, family)
		if err != nil {
			lines = append(lines, check.Errors(fmt.Sprintf("IPv%d tables", family), err)...)
			continue
		}
		lines = append(lines, check.ForwardPolicy(tables)...)
	}
	return lines
}

// forwardTables checks the tables of both variants of iptables while nftables has our rules.
func (c *checker) forwardTables(ctx context.Context) []check.Line {
	var lines []check.Line
	works := false
	if c.cfg.Dataplane == config.DataplaneNFTables { // with auto, iptables does not work
		programs, err := newIPTables(c.cfg)
		works = err == nil && c.tryIPTables(ctx, programs) == nil
	}
	for _, variant := range program.AllUnused(c.cfg.IPTables.LockTimeout) {
		families, err := variant.Families()
		if err != nil {
			lines = append(lines, check.Errors("iptables", err)...)
		}
		for _, family := range families {
			tables, err := variant.Save(ctx, family)
			if err != nil {
				lines = append(lines, check.Errors(fmt.Sprintf("IPv%d tables", family), err)...)
				continue
			}
			lines = append(lines, check.ForwardTables(tables, variant.Name(family), c.cfg.Ownership, works)...)
		}
	}
	return lines
}

// forwardHook checks the nf_tables chains of other programs.
func (c *checker) forwardHook(context.Context) []check.Line {
	if c.chosen.name == "" || checkPrivileges() != nil {
		return nil // already reported
	}
	found, err := host.ReadChains(c.cfg.Ownership)
	if err != nil {
		return check.Errors("nftables", err)
	}
	return check.ForwardHook(found.Dropping, c.chosen.name, c.showsNFTables(), c.cfg.Ownership)
}

// showsNFTables reports whether forwardPolicy saw the chains of iptables in nf_tables.
func (c *checker) showsNFTables() bool {
	if c.chosen.programs != nil {
		return c.chosen.programs.Variant() == program.NFTables
	}
	for _, variant := range program.AllUnused(c.cfg.IPTables.LockTimeout) {
		if families, err := variant.Families(); err == nil && variant.Variant() == program.NFTables && len(families) > 0 {
			return true
		}
	}
	return false
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

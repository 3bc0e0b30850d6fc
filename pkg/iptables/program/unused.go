// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// OtherVariantRules describes the rules that the unused variant holds, or returns "" if it holds none. Packets traverse the
// rules of both variants, so the operator must know. The method writes nothing and loads no kernel module.
func (r *Runner) OtherVariantRules(ctx context.Context) (string, error) {
	var found []string
	for _, family := range r.Families() {
		name := map[gateway.Family]string{gateway.IPv4: "ip", gateway.IPv6: "ip6"}[family]
		var said string
		var err error
		if r.variant == Legacy {
			said, err = r.otherRules(ctx, name+"tables-nft-save", nfTablesIsThere)
		} else {
			said, err = r.otherRules(ctx, name+"tables-legacy-save", func() (bool, error) { return legacyTablesAreThere(name) })
		}
		if err != nil {
			return "", fmt.Errorf("reading the rules of the other variant: %w", err)
		}
		if said != "" {
			found = append(found, said)
		}
	}
	return strings.Join(found, "; "), nil
}

func (r *Runner) otherRules(ctx context.Context, program string, isThere func() (bool, error)) (string, error) {
	if there, err := isThere(); err != nil || !there {
		return "", err
	}
	path, err := exec.LookPath(program)
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	out, err := r.run(ctx, r.timeout, nil, path)
	if err != nil {
		return "", err
	}
	rules, table, tables := 0, "", []string{}
	for line := range ruleset.Lines(string(out)) {
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, "-A "):
			rules++
			if len(tables) == 0 || tables[len(tables)-1] != table {
				tables = append(tables, table)
			}
		}
	}
	if rules == 0 {
		return "", nil
	}
	return fmt.Sprintf("%s shows %d rules in %s", program, rules, strings.Join(tables, ", ")), nil
}

// Unused is the variant that a Runner does not use. Packets traverse the rules of both.
type Unused struct{ used *Runner }

// Unused returns the unused variant.
func (r *Runner) Unused() Unused { return Unused{used: r} }

// Families returns the families for which the variant may hold tables and its programs are installed. It loads no kernel
// module.
func (u Unused) Families() ([]gateway.Family, error) {
	var families []gateway.Family
	for _, family := range u.used.Families() {
		there, err := u.isThere(family)
		if err != nil {
			return nil, fmt.Errorf("looking for tables of the other variant: %w", err)
		}
		if !there {
			continue
		}
		if _, err := exec.LookPath(u.name(family)); errors.Is(err, exec.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("finding %s: %w", u.name(family), err)
		}
		families = append(families, family)
	}
	return families, nil
}

// Save reads all tables of a family.
func (u Unused) Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error) {
	return u.runner(family).Save(ctx, family)
}

// Restore writes a batch as Runner.Restore does.
func (u Unused) Restore(ctx context.Context, batch ruleset.Batch) error {
	return u.runner(batch.Family).Restore(ctx, batch)
}

func (u Unused) runner(family gateway.Family) *Runner {
	variant := NFTables
	if u.used.variant == NFTables {
		variant = Legacy
	}
	return &Runner{
		variant: variant, wait: u.used.wait, timeout: u.used.timeout,
		programs: map[gateway.Family]program{family: program(u.name(family))},
	}
}

func (u Unused) name(family gateway.Family) string {
	name := map[gateway.Family]string{gateway.IPv4: "iptables-nft", gateway.IPv6: "ip6tables-nft"}[family]
	if u.used.variant == NFTables {
		return strings.TrimSuffix(name, "nft") + "legacy"
	}
	return name
}

func (u Unused) isThere(family gateway.Family) (bool, error) {
	if u.used.variant == Legacy {
		return nfTablesIsThere()
	}
	return legacyTablesAreThere(map[gateway.Family]string{gateway.IPv4: "ip", gateway.IPv6: "ip6"}[family])
}

// legacyTablesAreThere reports whether tables are registered in this network namespace. Only then is there anything to read,
// and reading them loads no module. /proc/net is not used because it shows the namespace of the first thread, which may
// differ.
func legacyTablesAreThere(family string) (bool, error) {
	names, err := os.ReadFile("/proc/thread-self/net/" + family + "_tables_names")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(bytes.TrimSpace(names)) > 0, err
}

// nfTablesIsThere reports whether nf_tables can be queried without loading its module: it is loaded or built in, or the
// kernel has no modules.
func nfTablesIsThere() (bool, error) {
	if _, err := os.Stat("/proc/modules"); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if _, err := os.Stat("/sys/module/nf_tables"); err == nil {
		return true, nil
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return false, fmt.Errorf("reading the kernel release: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	builtIn, err := os.ReadFile("/lib/modules/" + release + "/modules.builtin")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Contains(builtIn, []byte("/nf_tables.ko")), err
}

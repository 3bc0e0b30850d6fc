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
	"path/filepath"
	"strings"
	"time"

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
			said, err = r.otherRules(ctx, name+"tables-nft-save", NFTablesIsThere)
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

// Unused is a variant whose tables no Runner of this process writes, but which may hold rules of ours. Packets traverse the rules
// of both variants.
type Unused struct {
	variant  string
	families []gateway.Family
	wait     string
	timeout  time.Duration
}

// Unused returns the variant that the Runner does not use.
func (r *Runner) Unused() Unused {
	variant := NFTables
	if r.variant == NFTables {
		variant = Legacy
	}
	return Unused{variant, r.Families(), r.wait, r.timeout}
}

// AllUnused returns both variants, for a process that runs neither.
func AllUnused(lockTimeout time.Duration) []Unused {
	families := []gateway.Family{gateway.IPv4}
	if kernelHasIPv6() {
		families = append(families, gateway.IPv6)
	}
	wait, timeout := lockWait(lockTimeout), lockTimeout+programTimeout
	return []Unused{{NFTables, families, wait, timeout}, {Legacy, families, wait, timeout}}
}

// Families returns the families for which the variant may hold tables and its programs are installed. It loads no kernel
// module.
func (u Unused) Families() ([]gateway.Family, error) {
	var families []gateway.Family
	for _, family := range u.families {
		there, err := u.isThere(family)
		if err != nil {
			return nil, fmt.Errorf("looking for tables of iptables (%s): %w", u.variant, err)
		}
		if !there {
			continue
		}
		switch found, err := u.find(family); {
		case err != nil:
			return nil, err
		case found != "":
			families = append(families, family)
		}
	}
	return families, nil
}

// Name returns the name of the program for a family, or "" if none is installed.
func (u Unused) Name(family gateway.Family) string {
	found, err := u.find(family)
	if err != nil || found == "" {
		return ""
	}
	return filepath.Base(string(found))
}

// Variant returns Legacy or NFTables.
func (u Unused) Variant() string { return u.variant }

// Save reads all tables of a family.
func (u Unused) Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error) {
	r, err := u.runner(family)
	if err != nil {
		return ruleset.Ruleset{}, err
	}
	return r.Save(ctx, family)
}

// Restore writes a batch as Runner.Restore does.
func (u Unused) Restore(ctx context.Context, batch ruleset.Batch) error {
	r, err := u.runner(batch.Family)
	if err != nil {
		return err
	}
	return r.Restore(ctx, batch)
}

func (u Unused) runner(family gateway.Family) (*Runner, error) {
	r := &Runner{variant: u.variant, wait: u.wait, timeout: u.timeout, programs: map[gateway.Family]program{}}
	found, err := u.find(family)
	if found != "" {
		r.programs[family] = found
	}
	return r, err
}

// find returns the program of a family, or "" if none is installed. Some distributions install a variant without its suffix.
func (u Unused) find(family gateway.Family) (program, error) {
	name := map[gateway.Family]string{gateway.IPv4: "iptables", gateway.IPv6: "ip6tables"}[family]
	suffix := map[string]string{NFTables: "-nft", Legacy: "-legacy"}[u.variant]
	path, err := exec.LookPath(name + suffix)
	if !errors.Is(err, exec.ErrNotFound) {
		return program(path), err
	}
	path, err = exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", name, err)
	}
	version, err := new(Runner).run(context.Background(), probeTimeout, nil, program(path).restore(), "--version")
	if err != nil || reportedVariant(version) != u.variant {
		return "", err
	}
	return program(path), nil
}

func (u Unused) isThere(family gateway.Family) (bool, error) {
	if u.variant == NFTables {
		return NFTablesIsThere()
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

// NFTablesIsThere reports whether nf_tables can be queried without loading its module: it is loaded or built in, or the
// kernel has no modules.
func NFTablesIsThere() (bool, error) {
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

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func newTables(t *testing.T, shared bool) *netlink.Tables {
	t.Helper()
	tables, err := netlink.NewTables(gateway.DefaultOwnership().TableName(), shared)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tables.Close() })
	return tables
}

func nft(t *testing.T, words ...string) string {
	t.Helper()
	out, err := exec.Command("nft", words...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

// write brings the table from have to want.
func write(t *testing.T, tables *netlink.Tables, have, want ruleset.Table) error {
	t.Helper()
	err := tables.Write(t.Context(), want.Family, ruleset.Diff(have, want))
	return err
}

// TestTableOfAnotherProgram expects one clear error, and that the table stays as it is.
func TestTableOfAnotherProgram(t *testing.T) {
	testenv.RequireTool(t, "nft")
	testenv.NewNetNS(t)
	nft(t, "add table ip smartnat; add chain ip smartnat mine; add rule ip smartnat mine accept")
	before := nft(t, "list ruleset")
	tables := newTables(t, false)
	want := rules.Build(everything(gateway.IPv4), gateway.IPv4, gateway.DefaultOwnership())
	const expected = "the table ip smartnat of nf_tables was not made by smartnatd: remove it, or set ownership.setPrefix to another name"
	_, readErr := tables.Read(gateway.IPv4)
	_, removeErr := tables.Remove(gateway.IPv4)
	for name, err := range map[string]error{
		"write": write(t, tables, ruleset.Table{Family: gateway.IPv4}, want), "read": readErr, "remove": removeErr,
	} {
		if err == nil || err.Error() != expected {
			t.Errorf("%s: %v, want %q", name, err, expected)
		}
	}
	if diff := cmp.Diff(before, nft(t, "list ruleset")); diff != "" {
		t.Errorf("the table changed (-before +after):\n%s", diff)
	}
	if _, err := tables.Read(gateway.IPv6); err != nil {
		t.Errorf("the other family: %v", err)
	}
}

// TestTableOfAnotherProcess expects that a second process can neither write nor remove the table of the first one, and adopts
// it with its content when the first one has ended.
func TestTableOfAnotherProcess(t *testing.T) {
	testenv.NewNetNS(t)
	first, second := newTables(t, false), newTables(t, false)
	if !first.Owned() {
		testenv.Lacks(t, "tables that stay without their owner (Linux 6.9)")
	}
	want := rules.Build(everything(gateway.IPv4), gateway.IPv4, gateway.DefaultOwnership())
	if err := write(t, first, ruleset.Table{Family: gateway.IPv4}, want); err != nil {
		t.Fatal(err)
	}
	if err := write(t, second, want, ruleset.Table{Family: gateway.IPv4}); err == nil || !strings.Contains(err.Error(), "belongs to another process") {
		t.Errorf("the second process: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	have, err := second.Read(gateway.IPv4)
	if diff := cmp.Diff(want, have); err != nil || diff != "" {
		t.Errorf("after the first process: %v (-want +got):\n%s", err, diff)
	}
	if err := second.Adopt(gateway.IPv4); err != nil {
		t.Error(err)
	}
	if exists, owned, err := second.Inspect(gateway.IPv4); !exists || !owned || err != nil {
		t.Errorf("adopted: exists %t, owned %t, %v", exists, owned, err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	second = newTables(t, false)
	guard := rules.Guard(everything(gateway.IPv4), gateway.IPv4, gateway.DefaultOwnership())
	if err := write(t, second, have, guard); err != nil {
		t.Error(err)
	}
	if exists, owned, err := second.Inspect(gateway.IPv4); !exists || !owned || err != nil {
		t.Errorf("written: exists %t, owned %t, %v", exists, owned, err)
	}
	if removed, err := second.Remove(gateway.IPv4); !removed || err != nil {
		t.Errorf("removed %t, %v", removed, err)
	}
}

// TestRefusedBatch expects gateway.ErrRefused, the place of the mistake, and the table as it was.
func TestRefusedBatch(t *testing.T) {
	testenv.NewNetNS(t)
	for _, shared := range []bool{false, true} {
		tables := newTables(t, shared)
		own := gateway.DefaultOwnership()
		good := rules.Build(everything(gateway.IPv4), gateway.IPv4, own)
		if err := write(t, tables, ruleset.Table{Family: gateway.IPv4}, good); err != nil {
			t.Fatal(err)
		}
		bad := rules.Build(everything(gateway.IPv4), gateway.IPv4, own)
		bad.Chains = append(bad.Chains, ruleset.Chain{Name: "wrong", Rules: []ruleset.Rule{{Exprs: []ruleset.Expr{ruleset.Lookup{Set: "nonesuch"}}}}})
		err := write(t, tables, good, bad)
		if !errors.Is(err, gateway.ErrRefused) || !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "rule 1 of chain wrong") {
			t.Errorf("shared %t: %v", shared, err)
		}
		if err := tables.Try(bad); !errors.Is(err, gateway.ErrRefused) {
			t.Errorf("shared %t: trying: %v", shared, err)
		}
		if err := tables.Try(good); err != nil {
			t.Errorf("shared %t: trying what the kernel accepts: %v", shared, err)
		}
		have, err := tables.Read(gateway.IPv4)
		if diff := cmp.Diff(good, have); err != nil || diff != "" {
			t.Errorf("shared %t: %v (-want +got):\n%s", shared, err, diff)
		}
		if _, err := tables.Remove(gateway.IPv4); err != nil {
			t.Fatal(err)
		}
	}
}

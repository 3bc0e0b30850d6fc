// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink_test

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestLinksOfFlowtables brings the table from one list of links to another, and expects the kernel to hold the second. In between,
// links vanish.
func TestLinksOfFlowtables(t *testing.T) {
	testenv.NewNetNS(t)
	testenv.RequireFlowtable(t)
	link := func(words ...string) {
		t.Helper()
		if out, err := exec.Command("ip", append([]string{"link"}, words...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip link %v: %v: %s", words, err, out)
		}
	}
	link("add", "v0", "type", "veth", "peer", "name", "p0")
	link("add", "v1", "type", "veth", "peer", "name", "p1")
	tables := newTables(t, false)
	have := ruleset.Table{Family: gateway.IPv4}
	next := func(step string, links ...string) {
		t.Helper()
		want := rules.Build(flowing(everything(gateway.IPv4), links...), gateway.IPv4, gateway.DefaultOwnership())
		if err := write(t, tables, have, want); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		got, err := tables.Read(gateway.IPv4)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", step, err, diff)
		}
		have = want
	}
	next("none")
	next("the first", "v0")
	next("two", "v0", "v1")
	next("one less", "v1")
	link("del", "v1")
	next("the last one vanished")
	next("another one", "v0")
	link("del", "v0")
	link("add", "v0", "type", "veth", "peer", "name", "p0")
	damaged, err := tables.Read(gateway.IPv4)
	if err != nil || len(damaged.Flowtables) != 1 || len(damaged.Flowtables[0].Links) != 0 {
		t.Fatalf("the kernel kept a link that was removed: %+v, %v", damaged.Flowtables, err)
	}
	have = damaged
	next("repaired", "v0")
	state := flowing(everything(gateway.IPv4), "v0")
	state.Flowtable.Links[0].Index = 7
	again := rules.Build(state, gateway.IPv4, gateway.DefaultOwnership())
	if err := write(t, tables, have, again); err != nil {
		t.Fatal(err)
	}
	missing := rules.Build(flowing(everything(gateway.IPv4), "v0", "v9"), gateway.IPv4, gateway.DefaultOwnership())
	if err := write(t, tables, again, missing); !errors.Is(err, gateway.ErrRefused) {
		t.Errorf("a link that does not exist: %v", err)
	}
	if got, err := tables.Read(gateway.IPv4); err != nil || cmp.Diff(again, got) != "" {
		t.Errorf("after the refusal: %v (-want +got):\n%s", err, cmp.Diff(again, got))
	}
	if _, err := tables.Remove(gateway.IPv4); err != nil {
		t.Error(err)
	}
}

// TestRefusedFlowtable expects a refusal, also of a kernel without flowtables, and no other error.
func TestRefusedFlowtable(t *testing.T) {
	testenv.NewNetNS(t)
	tables, err := netlink.NewTables(gateway.DefaultOwnership().TableName(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	want := rules.Build(flowing(everything(gateway.IPv4), "none"), gateway.IPv4, gateway.DefaultOwnership())
	if err := tables.Try(want); !errors.Is(err, gateway.ErrRefused) {
		t.Errorf("a link that does not exist: %v", err)
	}
}

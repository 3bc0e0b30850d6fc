// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	nft "github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// nftablesBackend is the table of nf_tables. shared means that the table has no owner.
type nftablesBackend struct {
	shared bool
	tables *netlink.Tables
	calls  atomic.Int64
}

func newNFTables(t testing.TB, shared bool) *nftablesBackend {
	t.Helper()
	testenv.RequireTool(t, "nft")
	b := &nftablesBackend{}
	var err error
	if b.tables, err = netlink.NewTables(gateway.DefaultOwnership().TableName(), shared); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.tables.Close() })
	b.shared = !b.tables.Owned() // on an old kernel too
	return b
}

func (b *nftablesBackend) ruleset(guardOnly []gateway.Family, life *life) dataplane.Ruleset {
	return nftables.New(nftables.Options{
		Ownership: gateway.DefaultOwnership(), Kernel: countedTables{b.tables, &b.calls, life},
		Families: []gateway.Family{gateway.IPv4, gateway.IPv6}, GuardOnly: guardOnly,
	})
}

// countedTables counts transactions and complete readings. Its writes end with the life, if that is set.
type countedTables struct {
	*netlink.Tables
	calls *atomic.Int64
	life  *life
}

func (c countedTables) Read(family gateway.Family) (nft.Table, error) {
	c.calls.Add(1)
	return c.Tables.Read(family)
}

func (c countedTables) Write(ctx context.Context, family gateway.Family, batch nft.Batch) error {
	c.calls.Add(1)
	if c.life == nil {
		return c.Tables.Write(ctx, family, batch)
	}
	return c.life.write(fmt.Sprintf("IPv%d table", family), func() error { return c.Tables.Write(ctx, family, batch) })
}

func (b *nftablesBackend) addForeign(t *testing.T) {
	t.Helper()
	run(t, "nft", "add table inet other")
	run(t, "nft", "add chain inet other forward { type filter hook forward priority 10 ; policy accept ; }")
	run(t, "nft", "add rule inet other forward iifname eth9 accept")
}

func (b *nftablesBackend) addTracking(t *testing.T) {
	t.Helper()
	run(t, "nft", "add table inet tracking")
	run(t, "nft", "add chain inet tracking input { type filter hook input priority 0 ; policy accept ; }")
	run(t, "nft", "add rule inet tracking input ct state established accept")
}

var counters = regexp.MustCompile(`counter packets \d+ bytes \d+|packets \d+ bytes \d+`)

func (b *nftablesBackend) dump(t *testing.T) string {
	t.Helper()
	return counters.ReplaceAllString(run(t, "nft", "list ruleset"), "counter")
}

func (b *nftablesBackend) execs() int64 { return b.calls.Load() }

// hands are none if the table has an owner: the kernel refuses all of them, and `nft flush ruleset` leaves the table alone.
func (b *nftablesBackend) hands(t *testing.T) []hand {
	t.Helper()
	tables := []dataplane.Kind{dataplane.KindNFTables}
	if !b.shared {
		for _, script := range []string{
			"nft delete table ip smartnat", "nft flush chain ip smartnat forward", "nft delete element ip smartnat frontends { 198.51.100.10 . tcp . 8080 }",
			"nft add rule ip6 smartnat forward accept", "nft insert rule ip smartnat prerouting-nat accept",
		} {
			if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err == nil || !strings.Contains(string(out), "Operation not permitted") {
				t.Errorf("%s: %v, want it to be refused:\n%s", script, err, out)
			}
		}
		before := b.ours(t)
		run(t, "nft", "flush ruleset")
		if diff := cmp.Diff(before, b.ours(t)); diff != "" {
			t.Errorf("nft flush ruleset (-before +after):\n%s", diff)
		}
		return nil
	}
	return []hand{
		{name: "nft flush ruleset", script: "nft flush ruleset", kinds: tables, missing: "IPv6 table of nf_tables: chains missing or changed"},
		{name: "a table deleted", script: "nft delete table ip smartnat", kinds: tables, missing: "IPv4 table of nf_tables: chains missing or changed"},
		{name: "a chain flushed", script: "nft flush chain ip smartnat forward", kinds: tables, missing: "chains missing or changed: forward"},
		{name: "a rule added", script: "nft insert rule ip6 smartnat forward accept", kinds: tables, missing: "chains missing or changed: forward"},
		{name: "a chain added", script: "nft add chain ip smartnat mine '{ type filter hook forward priority -5 ; }'", kinds: tables, missing: "unexpected: mine"},
		{
			name: "an element deleted", script: "nft delete element ip smartnat frontends '{ 198.51.100.10 . tcp . 8080 }'",
			kinds: tables, missing: "sets missing or changed: frontends",
		},
		{
			name: "an element added", script: "nft add element ip smartnat backends '{ 198.51.100.10 . tcp . 22 . 0 : 10.10.0.1 . 22 }'",
			kinds: tables, missing: "sets missing or changed: backends",
		},
		{name: "a set flushed", script: "nft flush map ip smartnat frontends", kinds: tables, missing: "sets missing or changed: frontends"},
	}
}

// ours returns our tables.
func (b *nftablesBackend) ours(t *testing.T) string {
	t.Helper()
	return run(t, "nft", "list table ip smartnat") + run(t, "nft", "list table ip6 smartnat")
}

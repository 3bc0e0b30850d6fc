// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	nft "github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// poisonedTables is a door to nf_tables that adds a rule to one Mapping which the kernel refuses.
type poisonedTables struct {
	*netlink.Tables
	poison  bool
	written []nft.Batch
}

func (p *poisonedTables) refuse(refuse bool) { p.poison = refuse }
func (p *poisonedTables) forget()            { p.written = nil }
func (p *poisonedTables) wrote() bool        { return len(p.written) > 0 }

func (p *poisonedTables) wroteGood() bool {
	good := string(addr("198.51.100.10").AsSlice())
	return slices.ContainsFunc(p.written, func(b nft.Batch) bool {
		return slices.ContainsFunc(slices.Concat(b.AddElements, b.DeleteElements, elementsOf(b.AddSets)), leadsFrom(good))
	})
}

// leadsFrom reports whether elements have an external address in their key.
func leadsFrom(address string) func(e nft.Elements) bool {
	return func(e nft.Elements) bool {
		return e.Schema.Concatenated() && slices.ContainsFunc(e.List, func(x nft.Element) bool { return strings.HasPrefix(x.Key, address) })
	}
}

func elementsOf(sets []nft.Set) (list []nft.Elements) {
	for _, s := range sets {
		list = append(list, nft.Elements{Set: s.Name, Schema: s.Schema, List: s.Elements})
	}
	return list
}

// poisonous is a chain that the kernel refuses, because no number is less than 0 (nft_ng_random_init in net/netfilter/nft_numgen.c).
var poisonous = nft.Chain{Name: "poisonous", Rules: []nft.Rule{{Exprs: []nft.Expr{nft.Random{Modulus: 0}}}}}

func (p *poisonedTables) poisons(elements ...nft.Elements) bool {
	return p.poison && slices.ContainsFunc(elements, leadsFrom(string(addr("203.0.113.11").AsSlice())))
}

func (p *poisonedTables) Write(ctx context.Context, family gateway.Family, batch nft.Batch) error {
	p.written = append(p.written, batch)
	if p.poisons(slices.Concat(batch.AddElements, elementsOf(batch.AddSets))...) {
		batch.AddChains = append(slices.Clone(batch.AddChains), poisonous)
	}
	return p.Tables.Write(ctx, family, batch)
}

func (p *poisonedTables) Try(table nft.Table) error {
	if p.poisons(elementsOf(table.Sets)...) {
		table.Chains = append(slices.Clone(table.Chains), poisonous)
	}
	return p.Tables.Try(table)
}

func (b *nftablesBackend) refusing() (refuser, rulesetMaker) {
	door := &poisonedTables{Tables: b.tables}
	return door, rulesetOf(func() dataplane.Ruleset {
		return nftables.New(nftables.Options{
			Ownership: gateway.DefaultOwnership(), Kernel: door, Families: []gateway.Family{gateway.IPv4, gateway.IPv6},
		})
	})
}

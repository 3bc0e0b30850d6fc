// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// flowtableBackend is the table of nf_tables with a flowtable of all links, for tests with packets.
type flowtableBackend struct{ *nftablesBackend }

func newFlowtable(t testing.TB) backend {
	t.Helper()
	testenv.RequireFlowtable(t)
	return flowtableBackend{newNFTables(t, false)}
}

func (b flowtableBackend) ruleset(guardOnly []gateway.Family, life *life) dataplane.Ruleset {
	return flowing{b.nftablesBackend.ruleset(guardOnly, life)}
}

// packetBackends are those of tests with packets.
func packetBackends() []row {
	return append(slices.Clone(backends), row{"nftables flowtable", newFlowtable})
}

// flowing adds the links of the network namespace to each State.
type flowing struct{ dataplane.Ruleset }

func (r flowing) Apply(ctx context.Context, family gateway.Family, state gateway.State) (dataplane.Changes, error) {
	state, err := withFlowtable(state)
	if err != nil {
		return dataplane.Changes{}, err
	}
	return r.Ruleset.Apply(ctx, family, state)
}

func (r flowing) Plan(ctx context.Context, family gateway.Family, state gateway.State) (dataplane.Plan, error) {
	state, err := withFlowtable(state)
	if err != nil {
		return dataplane.Plan{}, err
	}
	return r.Ruleset.Plan(ctx, family, state)
}

func withFlowtable(state gateway.State) (gateway.State, error) {
	links, err := net.Interfaces()
	if err != nil {
		return gateway.State{}, err
	}
	state.Flowtable = gateway.Flowtable{Families: gateway.Families{IPv4: true, IPv6: true}}
	for _, l := range links {
		state.Flowtable.Links = append(state.Flowtable.Links, gateway.FlowLink{Name: l.Name, Index: l.Index})
	}
	slices.SortFunc(state.Flowtable.Links, func(a, b gateway.FlowLink) int { return strings.Compare(a.Name, b.Name) })
	return state, nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/objects"
)

// TestMutatedObjects puts wrong values into objects of the scenarios. The fuzzer seldom gets there, because it does not know
// JSON.
func TestMutatedObjects(t *testing.T) {
	host, cfg := fuzzHost(t)
	var originals [][]byte
	for _, folder := range scenarios(t) {
		snapshot, _, _ := readScenario(t, folder)
		text, err := json.Marshal(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		originals = append(originals, text)
	}
	random := rand.New(rand.NewPCG(1, 2))
	decoded, forwards := 0, 0
	calculator := calc.NewCalculator(cfg)
	for range 1500 {
		var tree any
		if err := json.Unmarshal(originals[random.IntN(len(originals))], &tree); err != nil {
			t.Fatal(err)
		}
		for range 1 + random.IntN(4) {
			tree = mutate(random, tree)
		}
		text, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		var s objects.Snapshot
		if json.Unmarshal(text, &s) != nil {
			continue // a value of another type, which no client would decode
		}
		decoded++
		s.Mappings, s.Services, s.EndpointSlices = withoutNil(s.Mappings), withoutNil(s.Services), withoutNil(s.EndpointSlices)
		s.PortGrants, s.Namespaces = withoutNil(s.PortGrants), withoutNil(s.Namespaces)
		state, findings := calc.Calculate(s, host, cfg)
		if again, findingsAgain := calculator.Calculate(s, host); !cmp.Equal(state, again, addresses) || !cmp.Equal(findings, findingsAgain) {
			t.Fatalf("after other objects, the State or the Findings differ for\n%s", text)
		}
		forwards += len(state.Forwards)
		checkState(t, state, cfg)
		if t.Failed() {
			t.Fatalf("objects:\n%s", text)
		}
	}
	if decoded < 500 || forwards < 1000 {
		t.Errorf("%d snapshots could be decoded, and made %d forwards: too few for a meaningful test", decoded, forwards)
	}
}

var wrongNumbers = []any{nil, 0, -1, 1, 80, 65535, 65536, 65616, 1 << 30, -1 << 31}

var wrongTexts = []any{
	nil, "", " ", "\x00", "é", "None", "tcp", "SCTP", "endpoints", "ClientIP", "IPv4", "IPv6", "FQDN", "echo", "dual",
	"0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "198.51.100.10", "10.244.1.10", "::", "::1", "::ffff:198.51.100.10",
	"fe80::1%eth1", "2001:db8:1::10", "fd00:10:244::10", "0.0.0.0/0", "10.0.0.1/8", "10.0.0.0/8", "::/0",
}

// mutate replaces, removes or duplicates one thing in the tree.
func mutate(random *rand.Rand, tree any) any {
	switch node := tree.(type) {
	case map[string]any:
		if len(node) > 0 && random.IntN(12) > 0 {
			key := slices.Sorted(maps.Keys(node))[random.IntN(len(node))]
			node[key] = mutate(random, node[key])
			return node
		}
	case []any:
		if len(node) == 0 {
			break
		}
		switch i := random.IntN(len(node)); random.IntN(12) {
		case 0:
			return slices.Delete(node, i, i+1)
		case 1:
			return append(node, node[i])
		default:
			node[i] = mutate(random, node[i])
			return node
		}
	}
	return wrong(random, tree)
}

// wrong returns another value of the kind, or none.
func wrong(random *rand.Rand, value any) any {
	switch value.(type) {
	case string:
		return wrongTexts[random.IntN(len(wrongTexts))]
	case float64:
		return wrongNumbers[random.IntN(len(wrongNumbers))]
	case bool:
		return random.IntN(2) == 0
	}
	return nil
}

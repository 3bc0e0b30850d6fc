// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

var update = flag.Bool("update", false, "write the golden files")

func text(t *testing.T, table ruleset.Table) string {
	t.Helper()
	var b bytes.Buffer
	if err := ruleset.WriteText(&b, table, "smartnat"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	compare := func(name, got string) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with -update if this is intended (-want +got):\n%s", diff)
			}
		})
	}
	for _, family := range families {
		for _, tc := range scenarios {
			compare(fmt.Sprintf("%s-ipv%d.nft", tc.name, family), text(t, Build(tc.state(family), family, ownership)))
		}
		compare(fmt.Sprintf("guard-ipv%d.nft", family), text(t, Guard(host(family), family, ownership)))
	}
}

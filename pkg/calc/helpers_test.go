// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

func TestHelpersWithoutNAT(t *testing.T) {
	calculator := NewCalculator(config.Default())
	for _, helpers := range [][]string{nil, {"ftp", "tftp"}, {"tftp"}, nil} { // modules are loaded while smartnatd runs
		_, findings := calculator.Calculate(objects.Snapshot{}, gateway.Host{HelpersWithoutNAT: helpers})
		var want, got []string
		for _, name := range helpers {
			want = append(want, "helpers."+name)
		}
		for _, f := range findings {
			if f.Reason == finding.ReasonHelperWithoutNAT {
				got = append(got, f.Field)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", helpers, diff)
		}
	}
}

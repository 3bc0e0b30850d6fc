// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReplaceRun(t *testing.T) {
	const begin, end = "<!-- scale: the last run begins -->\n", "<!-- scale: the last run ends -->\n"
	path := filepath.Join(t.TempDir(), "README.md")
	for _, test := range []struct{ name, before, want string }{
		{"the last run is replaced", "# a\n" + begin + "old\n" + end + "z\n", "# a\n" + begin + "\nnew\n#### b\n\n" + end + "z\n"},
		{"the end is missing", "# a\n" + begin, ""},
		{"both markers are missing", "# a\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(test.before), 0o644); err != nil {
				t.Fatal(err)
			}
			err := ReplaceRun(path, "scale", "new\n### b\n")
			got, _ := os.ReadFile(path) // a missing file differs
			if test.want == "" {
				test.want = test.before
				if err == nil {
					t.Error("no error")
				}
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

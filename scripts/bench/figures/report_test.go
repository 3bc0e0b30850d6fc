// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "results")
	if err := Write(dir, "scale", map[string]int{"ports": 10}, "a table\n", ""); err != nil {
		t.Fatal(err)
	}
	readme := filepath.Join(dir, "README.md")
	if err := Write(dir, "relay", nil, "", readme); err == nil {
		t.Error("no error for a missing README")
	}
	got := map[string]string{}
	for _, name := range []string{"scale.md", "scale.json", "relay.json", "README.md"} {
		text, _ := os.ReadFile(filepath.Join(dir, name)) // a missing file differs
		got[name] = string(text)
	}
	want := map[string]string{"scale.md": "a table\n", "scale.json": "{\n \"ports\": 10\n}\n", "relay.json": "null\n", "README.md": ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

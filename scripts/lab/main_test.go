// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"cmp"
	"debug/buildinfo"
	"debug/elf"
	"os"
	"path/filepath"
	"testing"
)

// TestProgramsAreAsShipped: the lab and the benchmarks run programs that are built as make build and scripts/image.sh build
// them.
func TestProgramsAreAsShipped(t *testing.T) {
	want := map[string]string{"CGO_ENABLED": cmp.Or(os.Getenv("CGO_ENABLED"), "0"), "-trimpath": "true"}
	for _, name := range []string{"smartnatd", "smartnat-relay"} {
		program := filepath.Join(os.Getenv(binKey), name)
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, s := range info.Settings {
			got[s.Key] = s.Value
		}
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s was built with %s=%s, want %s", name, key, got[key], value)
			}
		}
		file, err := elf.Open(program)
		if err != nil {
			t.Fatal(err)
		}
		if file.Section(".symtab") != nil {
			t.Errorf("%s is not stripped", name)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
}

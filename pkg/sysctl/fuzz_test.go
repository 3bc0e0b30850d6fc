// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sysctl

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzRecord reads arbitrary records. Set and Restore must not panic and must not write outside of the parameters, and Set must
// set the parameter.
func FuzzRecord(f *testing.F) {
	for _, record := range []string{
		"", "null", "{}", "[]", "{", `{"net/ipv4/ip_forward":null}`, `{"net/ipv4/ip_forward":{"was":"0","set":"1"}}`,
		`{"../outside":{"was":"1","set":"0"}}`, `{"/outside":{"was":"1","set":"0"}}`, `{"":{"was":"1","set":""}}`, `{"net":{"was":"1","set":"0"}}`,
		`{"net/ipv4/ip_forward":{"was":"1\n2","set":"0"}}`, "{\"a\x00b\":{}}",
	} {
		f.Add([]byte(record))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		dir := t.TempDir()
		s := &Sysctls{root: filepath.Join(dir, "sys"), record: filepath.Join(dir, recordName)}
		outside, parameter := filepath.Join(dir, "outside"), filepath.Join(s.root, forward)
		if err := os.MkdirAll(filepath.Dir(parameter), 0o755); err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string]string{s.record: string(record), outside: "0\n", parameter: "0\n"} {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_ = s.Set(forward, "1") // the error may report that the old value was not recorded
		if got, err := s.Get(forward); err != nil || got != "1" {
			t.Errorf("%s is %q, %v", forward, got, err)
		}
		_, _ = s.Restore()
		if text, err := os.ReadFile(outside); err != nil || string(text) != "0\n" {
			t.Errorf("written outside of the parameters: %q, %v", text, err)
		}
	})
}

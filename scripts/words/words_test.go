// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	const code = "package p\n\n"
	for _, test := range []struct {
		name, path, text string
		want             []hit
	}{
		{"plain words", "README.md", "# What it costs\n\nWhat is a Mapping? A row.\nThe host knows what it serves.\n", nil},
		{"a phrase, and one across lines", "README.md", "Nobody\nreads what is\ntold.\n", []hit{
			{1, `"Nobody": write name the process, the user or the client`},
			{2, `"is\ntold": write logs, reports, returns, or learns`},
		}},
		{"a message", "a.go", code + "var a = \"%s leads nowhere\"\n", []hit{{3, `"leads nowhere": write has no backends`}}},
		{"part of a word", "a.sh", "# the renewal, besides others: Newton\n", nil},
		{"a clause as subject", "README.md", "It ends. What is left\nstays.\n", []hit{{1, `"What" begins a sentence: subject first`}}},
		{"comments and strings, not code", "a.go", code + "// f is new.\n// Whoever calls it waits.\nfunc f(nobody string) string { return \"made anew\" }\n", []hit{
			{4, `"Whoever": write name the process, the user or the client`},
			{4, `"Whoever" begins a sentence: subject first`},
			{5, `"anew": write again, or recreate`},
		}},
		{"a block comment", "a.go", code + "/*\nWho calls it waits.\n*/\nvar a int\n", []hit{{4, `"Who" begins a sentence: subject first`}}},
		{"log messages", "a.go", code + "func f() {\n\tc.Log.WithError(err).Error(\"Failed\")\n\tlog.Info(\"" + strings.Repeat("a", 61) + "\")\n\tt.Error(\"Failed\")\n\tentry.Warn(\"failed\")\n}\n", []hit{
			{4, `log message "Failed" begins in upper case`},
			{5, `log message "` + strings.Repeat("a", 61) + `" has 61 characters, want at most 60 and the rest in fields`},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := check(test.path, []byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(hit{})); diff != "" {
				t.Errorf("hits (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReads(t *testing.T) {
	for _, test := range []struct {
		path    string
		folders []string
		want    bool
	}{
		{"pkg/calc/calc.go", nil, true},
		{"pkg/calc/calc.go", []string{"pkg/calc"}, true},
		{"pkg/calculus/a.go", []string{"pkg/calc"}, false},
		{"README.md", []string{"."}, true},
		{"generated/clientset/a.go", nil, false},
		{"pkg/calc/testdata/a.yaml", nil, false},
		{"LICENSE", nil, false},
	} {
		if got := reads(test.path, test.folders); got != test.want {
			t.Errorf("reads(%q, %q) = %t, want %t", test.path, test.folders, got, test.want)
		}
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/ha"
)

// TestConntrackdThatAnswersGarbage replaces conntrackd: an error is one short line of printable text, whatever the program says.
func TestConntrackdThatAnswersGarbage(t *testing.T) {
	for name, test := range map[string]struct{ script, want string }{
		"not installed":  {"", "conntrackd is not installed"},
		"no end":         {"exec yes", "conntrackd -s: signal: killed"},
		"another text":   {"echo hello", "conntrackd prints counters that this version does not know"},
		"a failure":      {`printf 'cannot\n\033[2J connect\n' >&2; exit 1`, `conntrackd -s: exit status 1: "cannot \x1b[2J connect": does conntrackd run?`},
		"a long failure": {"head -c 10000 /dev/zero | tr '\\0' x; exit 1", `conntrackd -s: exit status 1: "xxx`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := os.Getenv("PATH")
			if test.script == "" {
				path = ""
			} else if err := os.WriteFile(filepath.Join(dir, "conntrackd"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+path)
			got, err := copying(t.Context())
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%+v, %v", got, err)
			}
			if got != (ha.Copying{}) {
				t.Errorf("counters %+v", got)
			}
		})
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSubjects checks the commits of this tree, because CI runs only the tests.
func TestSubjects(t *testing.T) {
	if out, err := exec.Command("./verify.sh", "subjects").CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestSubjectsOfCommits runs the check on repositories with good and bad subjects, and with less history than it asks for.
func TestSubjectsOfCommits(t *testing.T) {
	const good = "pkg/calc, README: reject ports of the host…"
	for _, test := range []struct {
		name     string
		subjects []string // the oldest first
		// base is the number of the commit from which on subjects are checked, or -1 if this clone does not have it.
		base int
		// want are parts of the output. If there are none, the check passes.
		want []string
	}{
		{name: "no commits", base: -1},
		{name: "good", subjects: []string{"initial", good, "README: bring two commands"}, base: 0},
		{name: "older ones do not count", subjects: []string{"initial", "A subject without an area", good}, base: 1},
		{name: "each bad one is named", subjects: []string{"initial", "Do it", good, "pkg/calc: Fix it", "lab: added a host", "lab: adding a host"}, base: 0,
			want: []string{": Do it: want \"area: ", ": pkg/calc: Fix it: want \"area: ", ": lab: added a host: want the imperative", ": lab: adding a host: want the imperative"}},
		{name: "72 characters", subjects: []string{"initial", "lab: " + strings.Repeat("ä", 66), "lab: a" + strings.Repeat("ä", 66)}, base: 0, want: []string{"want \"area: "}},
		{name: "73 characters", subjects: []string{"initial", "lab: a" + strings.Repeat("ä", 67)}, base: 0, want: []string{": 73 characters, want at most 72"}},
		{name: "without history, the last one is good", subjects: []string{"Old", good}, base: -1},
		{name: "without history, the last one is bad", subjects: []string{good, "Fix it"}, base: -1, want: []string{": Fix it: want \"area: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(program string, args ...string) (string, error) {
				cmd := exec.Command(program, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir),
					"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
					"SUBJECTS_SINCE="+strings.TrimSpace(read(t, filepath.Join(dir, "base"))))
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			write(t, filepath.Join(dir, "base"), strings.Repeat("0", 40))
			if err := os.Mkdir(filepath.Join(dir, "scripts"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "scripts/verify.sh"), read(t, "verify.sh"))
			git := func(args ...string) string {
				out, err := run("git", args...)
				if err != nil {
					t.Fatalf("git %s: %v:\n%s", strings.Join(args, " "), err, out)
				}
				return out
			}
			git("init", "--quiet")
			for i, subject := range test.subjects {
				git("commit", "--quiet", "--allow-empty", "--message", subject)
				if i == test.base {
					write(t, filepath.Join(dir, "base"), git("rev-parse", "HEAD"))
				}
			}
			out, err := run("bash", "scripts/verify.sh", "subjects")
			if failed := err != nil; failed != (len(test.want) > 0) {
				t.Errorf("the check ends with %v:\n%s", err, out)
			}
			for _, want := range test.want {
				if strings.Count(out, want) != 1 {
					t.Errorf("want one line with %q:\n%s", want, out)
				}
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

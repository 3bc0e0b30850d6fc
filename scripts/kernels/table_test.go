// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kernels tests how the runs on other kernels are counted.
package kernels

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	up       = "@kernel 6.1.0\n@flowtable yes\n"
	host     = "@suite pkg/host\n=== RUN   TestHost\n    --- PASS: TestHost/one (0.10s)\n--- PASS: TestHost (0.20s)\nPASS\n@end pkg/host 0\n"
	sysctl   = "@suite pkg/sysctl\n=== RUN   TestLinks\n"
	heading  = "| kernel | suite | passed | failed | skipped | why |\n| --- | --- | --- | --- | --- | --- |\n"
	hostRow  = "| 6.1.0 | pkg/host | 2 | 0 | 0 |  |\n"
	flowRow  = "\nflowtables: 6.1.0 yes\n"
	complete = "@done\n"
)

// TestTable checks that whatever keeps a suite from passing to its end is a failure, and that the table names the reason of each skip.
func TestTable(t *testing.T) {
	for _, tc := range []struct {
		name, log, rows string
		bad             bool
	}{
		{
			"all pass", up + host + sysctl + "--- PASS: TestLinks (0.00s)\nPASS\n@end pkg/sysctl 0\n" + complete,
			hostRow + "| 6.1.0 | pkg/sysctl | 1 | 0 | 0 |  |\n", false,
		},
		{
			"a failure", up + host + sysctl + "    --- FAIL: TestLinks/eth0 (0.00s)\n--- FAIL: TestLinks (0.00s)\nFAIL\n@end pkg/sysctl 1\n" + complete,
			hostRow + "| 6.1.0 | pkg/sysctl | 0 | 2 | 0 |  |\n", true,
		},
		{
			"skips", up + host + sysctl + "    a_test.go:1: SKIPPED: the kernel lacks SCTP sockets\n--- SKIP: TestA (0.00s)\n" +
				"    a_test.go:2: SKIPPED: the kernel lacks SCTP sockets\n--- SKIP: TestB (0.00s)\n    a_test.go:3: SKIPPED: the kernel lacks IPVS\n" +
				"--- SKIP: TestC (0.00s)\n--- SKIP: TestD (0.00s)\n--- PASS: TestLinks (0.00s)\nPASS\n@end pkg/sysctl 0\n" + complete,
			hostRow + "| 6.1.0 | pkg/sysctl | 1 | 0 | 4 | the kernel lacks SCTP sockets (2); the kernel lacks IPVS; 1 skipped without a reason |\n", false,
		},
		{
			"a panic", up + host + sysctl + "panic: oh\n@end pkg/sysctl 2\n" + complete,
			hostRow + "| 6.1.0 | pkg/sysctl | 0 | 1 | 0 | exit status 2 |\n", true,
		},
		{
			"nothing passes", up + host + sysctl + "testing: warning: no tests to run\nPASS\n@end pkg/sysctl 0\n" + complete,
			hostRow + "| 6.1.0 | pkg/sysctl | 0 | 0 | 0 |  |\n", true,
		},
		{
			"the machine ends in a suite", up + host + sysctl + "--- PASS: TestLinks (0.00s)\n@broken the machine ended too early\n",
			hostRow + "| 6.1.0 | pkg/sysctl | 1 | 1 | 0 | did not end |\n", true,
		},
		{"the machine ends between suites", up + host, hostRow + "| 6.1.0 | pkg/sysctl | 0 | 1 | 0 | did not run |\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "6.1.0.log")
			if err := os.WriteFile(path, []byte(tc.log), 0o600); err != nil {
				t.Fatal(err)
			}
			output, err := exec.CommandContext(t.Context(), "awk", "-v", "suites=pkg/host pkg/sysctl", "-f", "table.awk", path).CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if bad := err != nil; bad != tc.bad {
				t.Errorf("failed = %t, want %t", bad, tc.bad)
			}
			if diff := cmp.Diff(heading+tc.rows+flowRow, string(output)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSuitesAreFound checks that each package of pkg whose tests enter a network namespace is a suite.
func TestSuitesAreFound(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "./run.sh", "suites").Output()
	if err != nil {
		t.Fatal(err)
	}
	suites := strings.Fields(string(output))
	const root = "../.."
	found := 0
	if err := filepath.WalkDir(filepath.Join(root, "pkg"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "testenv.NewNetNS(") {
			return err
		}
		found++
		suite, err := filepath.Rel(root, filepath.Dir(path))
		if !slices.Contains(suites, suite) {
			t.Errorf("%s enters a network namespace, but is not among %q", path, suites)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if found < 10 {
		t.Errorf("%d files enter a network namespace, want at least 10", found)
	}
}

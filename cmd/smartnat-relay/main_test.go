// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestExitCodes checks the table in cmd/smartnatd/README.md: 2 for errors that no retry fixes, 1 for errors that may go away.
func TestExitCodes(t *testing.T) {
	missing := []string{"--tls-cert-file=/nonexistent.crt", "--tls-private-key-file=/nonexistent.key"}
	for _, test := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"version", []string{"version"}, 0, ""},
		{"--version", []string{"--version"}, 0, ""},
		{"help", []string{"--help"}, 0, ""},
		{"an unknown command", []string{"serve"}, exitUsage, "serve"},
		{"an unknown command with flags", append([]string{"serve"}, missing...), exitUsage, "serve"},
		{"an unknown flag", []string{"--verbose"}, exitUsage, "--verbose"},
		{"an unknown flag of a command", []string{"version", "--verbose"}, exitUsage, "--verbose"},
		{"too many arguments", []string{"version", "all"}, exitUsage, "all"},
		{"a flag without its value", []string{"--log-level"}, exitUsage, "--log-level"},
		{"an invalid value", append([]string{"--log-format=xml"}, missing...), exitUsage, "xml"},
		{"an unknown command after a flag", []string{"--log-level=debug", "serve"}, exitUsage, "serve"},
		{"a kubeconfig that is none", append([]string{"--kubeconfig=main_test.go"}, missing...), exitFailure, "main_test.go"},
		{"no cluster", missing, exitFailure, "smartnat-relay: not in a pod of a cluster: --kubeconfig is required\n"},
		{"two mistakes", nil, exitUsage, "smartnat-relay: --tls-cert-file: is required without --tls-secret\nsmartnat-relay: --tls-private-key-file: is required without --tls-secret\n"},
		{"a missing kubeconfig", append([]string{"--kubeconfig=/nonexistent.conf"}, missing...), exitFailure, "/nonexistent.conf"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			exit := run(t.Context(), test.args, &stdout, &stderr, func(logrus.FieldLogger) {})
			if exit != test.exit || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("exit code %d, %q; want %d and %q", exit, stderr.String(), test.exit, test.want)
			}
		})
	}
}

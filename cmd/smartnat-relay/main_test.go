// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestExitCodes follows the table in README.md: 2 for what no retry mends, 1 for what may pass.
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
		{"an argument too many", []string{"version", "all"}, exitUsage, "all"},
		{"a flag without its value", []string{"--log-level"}, exitUsage, "--log-level"},
		{"a value that makes no sense", append([]string{"--log-format=xml"}, missing...), exitUsage, "xml"},
		{"a kubeconfig that is not there yet", append([]string{"--kubeconfig=/nonexistent.conf"}, missing...), exitFailure, "/nonexistent.conf"},
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

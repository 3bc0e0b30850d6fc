// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"strings"
	"testing"
)

// FuzzLoad reads files that may be anything: no panic, lines that name the file, and nothing accepted that is not valid.
func FuzzLoad(f *testing.F) {
	delivered, err := os.ReadFile("../../systemd/smartnat.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		whole, string(delivered), "", "---", "- a", "{}", "a: b: c", "a: &a [*a]", "? {a: b}\n: c", "source: {files: {paths: [/objects]}}\n---\n",
		"instance: gw1\nsource: {files: {paths: [/objects]}}\nresync: 30\nownership: {markMask: 0x1ff0, routingTable: 1e3}",
		"instance: gw1\nsource: {kubeconfig: {path: /k}}\nuplinks: [{interface: '/(/'}, {interface: 'eth['}, ~]\nserviceRoutes: [~, {via: [~]}]",
		"source: &s {files: {paths: [/objects]}}\nlog: *s\n<<: *s", "instance: !!binary aGVsbG8=\nresync: !!float .inf\nmasquerade: yes",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := parse("the-file", text, noEnvironment)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if strings.HasPrefix(line, "the-file") {
					return
				}
			}
			t.Errorf("no line names the file: %v", err)
			return
		}
		if errs := cfg.validate(); len(errs) > 0 {
			t.Errorf("accepted, and not valid: %v", errs.ToAggregate())
		}
	})
}

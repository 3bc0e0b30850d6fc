// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReload(t *testing.T) {
	running := Default()
	for _, test := range []struct {
		name string
		// change edits the file, takes is the part that a reload applies.
		change, takes func(*Config)
		kept          []string
	}{
		{"nothing", func(*Config) {}, func(*Config) {}, nil},
		{"keys that can be reloaded", func(c *Config) {
			c.Masquerade, c.Resync, c.StateDir, c.IPTables.LockTimeout = false, time.Minute, "/srv", time.Second
			c.Source.Files, c.Uplinks, c.Log.Level = &Files{Paths: []string{"/objects"}}, []Uplink{{Interface: "eth1"}}, "debug"
		}, func(c *Config) {
			c.Masquerade, c.Resync, c.StateDir, c.IPTables.LockTimeout = false, time.Minute, "/srv", time.Second
			c.Source.Files, c.Uplinks, c.Log.Level = &Files{Paths: []string{"/objects"}}, []Uplink{{Interface: "eth1"}}, "debug"
		}, nil},
		{"one of the names", func(c *Config) { c.Ownership.SetPrefix = "other-"; c.ClampMSS = true }, func(c *Config) { c.ClampMSS = true }, []string{"ownership"}},
		{"all keys that cannot", func(c *Config) {
			c.Ownership.MarkMask, c.IPTables.Variant, c.IPv6, c.RuntimeDir = 0x3f, VariantLegacy, false, "/tmp"
		}, func(*Config) {}, []string{"ownership", "iptables.variant", "ipv6", "runtimeDir"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			next, want := Default(), Default()
			test.change(&next)
			test.takes(&want)
			got, kept := Reload(running, next)
			if diff := cmp.Diff(want, got, addresses); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.kept, kept); diff != "" {
				t.Errorf("kept keys (-want +got):\n%s", diff)
			}
		})
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

// Reload returns what a running gateway can change over to when its file says next: everything but what names the things that
// it has programmed, which would be left behind under their old names. The keys of these are returned where they differ: they
// need `smartnatd cleanup` under the old config, and then a start under the new one.
func Reload(running, next Config) (Config, []string) {
	var kept []string
	kept = keep(kept, "ownership", running.Ownership, &next.Ownership)
	kept = keep(kept, "iptables.backend", running.IPTables.Backend, &next.IPTables.Backend)
	kept = keep(kept, "iptables.ipv6", running.IPTables.IPv6, &next.IPTables.IPv6)
	kept = keep(kept, "runtimeDir", running.RuntimeDir, &next.RuntimeDir)
	return next, kept
}

func keep[T comparable](kept []string, key string, running T, next *T) []string {
	if *next == running {
		return kept
	}
	*next = running
	return append(kept, key)
}

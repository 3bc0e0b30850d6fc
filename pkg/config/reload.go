// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

// Reload returns the config for a running gateway whose file now says next. It keeps the keys that name programmed state, which
// would otherwise be left behind under the old names, and returns those that differ. To change them, run `smartnatd cleanup`
// with the old config, and then start with the new one. The key dataplane is not kept: each data plane removes what the other one
// programmed.
func Reload(running, next Config) (Config, []string) {
	var kept []string
	kept = keep(kept, "ownership", running.Ownership, &next.Ownership)
	kept = keep(kept, "iptables.variant", running.IPTables.Variant, &next.IPTables.Variant)
	kept = keep(kept, "ipv6", running.IPv6, &next.IPv6)
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

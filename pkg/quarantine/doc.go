// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package quarantine keeps one Mapping whose rules the kernel or iptables refuses from blocking all others, because a table
// is committed entirely or not at all. It wraps a Dataplane and knows only States and the owners in them.
//
// While nothing is refused, it passes States through. If a write is refused as invalid, it bisects the State: it tries parts
// in chains that no packet reaches until it knows which parts are refused on their own. A part is what one owner requests in
// one address family. Refused parts are quarantined. The rest is programmed, and a part that was in effect before keeps
// whatever it still requests. A part is retried when its request changes, when the state that all parts share changes, and
// after a delay that doubles.
//
// The package is pure except for the Dataplane: it knows neither iptables nor a clock.
package quarantine

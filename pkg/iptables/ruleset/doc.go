// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ruleset models chains and rules as comparable values, with everything that needs no kernel: how iptables-restore
// and iptables-save spell them (both variants, both families), how two rulesets differ, the smallest batch that changes one
// into the other, and what happens to a packet that traverses them: Tracer is a packet.Tracer that also knows xt_statistic
// and xt_recent.
//
// It is pure. It knows how iptables spells a rule, and pkg/iptables/rules knows why SmartNat needs it.
package ruleset

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package iptables programs the rules of a gateway.State with iptables-restore and ipsets: it is a dataplane.Ruleset. It
// remembers what it wrote, so that a change costs only the difference, and reads the kernel only after another process may
// have written.
//
// Its wing are the packages below it: rules decides which rules a State needs, ruleset models and spells them, program runs
// iptables-save and iptables-restore, ipset speaks to the kernel, and hold keeps connection tracking active. Only program,
// ipset and hold touch the kernel. Nothing outside the wing, except for the wiring, knows how a rule is spelled.
//
// It does not know Kubernetes, routes or kernel parameters, nor when to write: pkg/dataplane orders the writes.
package iptables

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package program runs iptables-save and iptables-restore of the variant that the host uses and returns typed errors. It
// writes to the kernel only through these programs, detects writes by asking the kernel directly, and does not know the
// purpose of the rules.
package program

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ruleset models one table of nf_tables: chains, rules, and the sets and maps that rules look up. It is pure.
//
// A rule is a list of expressions, the byte code that the kernel executes: a load writes a register, a comparison ends the
// rule if it fails, a statement acts. The same values are built from a State, encoded for the kernel and decoded from it,
// printed as input for nft(8), and interpreted by the Tracer.
package ruleset

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package finding defines what a gateway found out about Mappings and its host: each Finding says what is not in effect, why, and
// what would be right. Calculation, status, checks and metrics share these values.
//
// It is pure, and decides nothing: it does not know how a Finding comes about.
package finding

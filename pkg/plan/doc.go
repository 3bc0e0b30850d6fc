// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plan says how a gateway differs from what is desired, and what documents would change: it lays them over the current
// objects, calculates the State again, and compares it, Mapping by Mapping.
//
// It is pure, and never reads the kernel: the caller does, and passes what differs there.
package plan

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package worlds tests smartnatd in realistic networks, each a small world with one peculiarity: other programs, other links, real
// manifests. A world is a lab of hosts without a control plane, and smartnatd reads its objects from a file, so it is up within
// a second. Tests that need a real control plane are in scripts/lab/e2e.
package worlds

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster has REST clients for the few kinds that the relay reads and writes. They send the same requests as the
// clientsets of client-go, which would load the types of all kinds into memory. The package knows how to request a kind.
// It must not interpret objects, keep state, or decide who may see what.
package cluster

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package source brings the objects that a gateway works from: out of a relay, out of a cluster by kubeconfig, or out of
// files. All three give the same Snapshot, so that nothing behind them knows where it came from. It reads and never writes,
// decides nothing about what it reads, and must never know the data path.
package source

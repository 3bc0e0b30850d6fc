// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pair is what a gateway of a pair does: it answers and asks its peer over the sync link, asks its neighbours whether they are
// there, tells keepalived by a file, and has conntrackd refresh the peer's connections. pkg/ha decides. It knows no rules and no cluster.
package pair

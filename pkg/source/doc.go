// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package source reads the objects that a gateway works from: from a relay, from a cluster by kubeconfig, or from files.
// All three produce the same Snapshot, so that later stages do not know the origin. The package never writes, does not
// interpret objects, and must not know the data path.
package source

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package status writes into the status of Mappings what this gateway has in effect: its own entry in status.instances, by
// server-side apply, through the relay or directly in the cluster. Computing an entry is pure. Writing is rare, off the path of
// packets, and never blocks other work. The package must not know how the kernel is programmed, only the result.
package status

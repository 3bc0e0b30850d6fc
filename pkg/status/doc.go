// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package status says in the status of Mappings what this gateway has in effect of them: its own entry in status.instances, by
// server-side apply, through the relay or at the cluster itself. What an entry says is pure; writing it is done off the path of
// packets, seldom, and never waited for by anybody. It must never know how the kernel is programmed, only what came of it.
package status

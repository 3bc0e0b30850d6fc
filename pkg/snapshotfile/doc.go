// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snapshotfile keeps the last known objects in a file, so that a gateway that boots while the cluster is unreachable still
// knows what to forward. It touches only that file and files next to it, and decides nothing: its callers decide when the
// content may be used.
//
// The file is text with one JSON value per line: a header, the objects, and an end with the number of objects and the SHA-256
// of everything before it. It is always replaced as a whole: written under another name, synced and renamed, so that a crash
// leaves either the old file or the new one. It holds the content of a Snapshot, nothing secret.
package snapshotfile

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snapshot keeps the last objects that were known in a file, so that a gateway which boots while the cluster is out of
// reach still knows what to forward. It touches that one file and what is beside it, and decides nothing: who may use what the
// file says, and when, is for others.
//
// The file is text, one JSON value a line: a header, an object each, and an end that counts the objects and has the SHA-256
// of all before it. It is replaced as a whole: written beside, synced and renamed, so that a crash leaves the old one or the
// new one. It holds no more than a Snapshot does, which is nothing secret.
package snapshot

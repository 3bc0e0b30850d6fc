// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package flowlog keeps connections that ended in a file of JSON lines, whose size is bounded, and searches it. It never blocks the
// reader of the kernel: what it cannot write in time is lost, counted, and marked in the file.
package flowlog

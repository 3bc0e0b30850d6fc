// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package objects knows what an API server lets through of the objects that a gateway reads. A gateway trusts no relay and
// no file: what no API server would have stored is turned away at the door, before its texts get into rules, logs or files.
//
// It is pure. It must never know where objects come from, nor decide what a valid one means.
package objects

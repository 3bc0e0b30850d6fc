// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package check judges a config and a host: values in, lines out. It reads nothing itself; the command passes the values. Each
// line is for people and complete in itself: it says what is wrong and how to fix it.
package check

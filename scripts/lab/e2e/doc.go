// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the tests of the whole of SmartNat: a real control plane, the relay, smartnatd and the kernel of a
// gateway, seen from outside by packets. It has no code of its own.
package e2e

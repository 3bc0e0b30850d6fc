// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the end-to-end tests of SmartNat: a real control plane, the relay, smartnatd and the kernel of a gateway, observed
// from outside by packets. It has only tests, on three data planes (see plane_test.go and ../README.md).
package e2e

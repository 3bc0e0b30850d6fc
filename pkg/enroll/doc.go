// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package enroll knows the bundle that an administrator of a cluster hands to a gateway, and turns it and the facts of the
// host into a config. It is pure: cmd/kubectl-smartnat makes the bundle (package plugin), cmd/smartnatd reads the host and
// writes the files. Everything in a bundle is parsed before any of it is used, because a bundle may come from anywhere.
package enroll

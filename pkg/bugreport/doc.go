// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bugreport writes what helps to find a fault into an archive, without secrets: whatever is known to be one is removed from
// every part. It reads nothing itself.
package bugreport

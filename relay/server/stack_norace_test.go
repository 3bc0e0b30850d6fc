// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package server

// stackOfQuietWatch is the smallest stack that fits a watch.
const stackOfQuietWatch = 4 << 10

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package server

// stackOfQuietWatch is the least that there is room for.
const stackOfQuietWatch = 4 << 10

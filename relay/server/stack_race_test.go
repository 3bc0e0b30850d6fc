// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build race

package server

// stackOfQuietWatch is twice as large, because the race detector enlarges stack frames.
const stackOfQuietWatch = 8 << 10

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build race

package server

// stackOfQuietWatch has twice the room: the race detector puts more on each stack.
const stackOfQuietWatch = 8 << 10

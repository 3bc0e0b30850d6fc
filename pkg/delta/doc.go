// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package delta compares and updates lists at the cost of what changed. It lets a package build its result as one plain story
// and keep the parts whose input stays the same. It is pure and knows nothing about the items.
package delta

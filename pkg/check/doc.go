// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package check judges a config and a host: values in, lines out. It reads nothing itself; cmd gives it what was read. A line is
// for a person, says what is wrong and what would be right, and stands alone.
package check

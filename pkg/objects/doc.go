// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package objects rejects objects that no API server would have stored. A gateway trusts neither a relay nor a file, so it
// checks each object before its texts reach rules, logs or files.
//
// It is pure. It does not know where objects come from, nor the meaning of a valid object.
package objects

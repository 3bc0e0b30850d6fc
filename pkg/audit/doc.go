// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package audit says which frontends were opened, closed, changed or refused between two applies, for whom, by which grant, and who last
// wrote the spec that asks for them. It is pure: package trail writes the Records down.
//
// Records are as true as the objects that they come from.
package audit

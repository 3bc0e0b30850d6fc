// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package conditions decides the status of a Mapping: its conditions, with a reason that a person can act on, and the
// columns that kubectl prints. It is pure, so all relays and gateways decide the same status and do not overwrite each
// other's. It only reads objects; it must not know hosts or the writer of the status.
package conditions

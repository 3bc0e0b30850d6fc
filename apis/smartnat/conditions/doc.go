// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package conditions says what the status of a Mapping is to be: its conditions, with a reason that a person can act on, and
// what kubectl prints of it. It is pure, so that every relay and every gateway that decides for itself comes to the same
// status, and no two of them fight over it. It knows objects alone: never a host, nor who writes what it decides.
package conditions

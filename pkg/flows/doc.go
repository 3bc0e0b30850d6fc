// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package flows describes connections that Mappings translated: which client, which external address, which backend, and the
// address as which the backend sees the client. It selects the largest of many, and those behind an address that a backend saw.
//
// It is pure. pkg/conntrack reads connections, and pkg/flowlog keeps those that ended.
package flows

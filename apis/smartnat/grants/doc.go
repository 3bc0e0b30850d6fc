// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package grants decides whether a namespace may use a port of an external address, by PortGrants. It is pure, because the
// relay and each gateway must come to the same result. It must not know which Mapping gets a port
// that several may use: package conflicts decides that.
//
// A PortGrant that is invalid covers its addresses and grants nothing: a mistake must not open what it was written to protect.
package grants

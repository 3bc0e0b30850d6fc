// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dataplane brings the kernel to a gateway.State: it observes the kernel, computes the differences and writes them, in
// an order in which every step is safe on its own. At the end it ends connections that the State no longer makes. It alone
// orders writes, through the interfaces that it declares.
//
// It does not know Kubernetes, the reasons for a State, or how a rule or a route is spelled.
package dataplane

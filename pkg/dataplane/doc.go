// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dataplane brings the kernel to a gateway.State: it observes, finds what differs and writes that, in an order in
// which every step is safe on its own; at last it has the connections follow. It alone orders writes, through the interfaces
// that it declares.
//
// It never knows Kubernetes, why a State is what it is, or how a rule or a route is spelled.
package dataplane

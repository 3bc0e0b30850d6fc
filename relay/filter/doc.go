// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package filter says what of the cluster may leave it: which Mappings, Services and EndpointSlices, and which of their
// fields. It is pure, and whoever reviews what a gateway can learn about a cluster needs to read nothing else. It names
// what leaves, never what stays: a field that a later Kubernetes adds stays inside until it is named here.
package filter

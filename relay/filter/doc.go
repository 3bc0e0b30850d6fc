// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package filter decides what may leave the cluster: which objects (Rule, Index), which of them for which gateway (Scope), and which of
// their fields (Mapping, Service, EndpointSlice). A security review of the data that gateways can learn has to read this package, its golden
// files, and nothing else: package watchcache holds no object that has not passed a Strip, and shows none that Index does
// not call visible. The package lists the fields that leave, not those that stay, so a field that a later Kubernetes adds
// stays inside until it is listed here. A gateway asks for a part of what leaves (package kinds).
//
// The package is pure. It must not know clients, versions or encodings.
package filter

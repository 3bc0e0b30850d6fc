// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package filter decides what may leave the cluster: which Mappings, Services and EndpointSlices, and which of their
// fields. It is pure. Its functions and their golden files are what a security review of the data that gateways can learn
// has to read; package watchcache applies them. The package lists the fields that leave, not those that stay, so a field
// that a later Kubernetes adds stays inside until it is listed here.
package filter

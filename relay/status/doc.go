// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package status informs the authors of Mappings whether they work: it writes the conditions of Mappings into the cluster,
// accepts reports of gateways if allowed, and removes the entries of silent gateways. It reads the relay's cache, and writes
// only the status of Mappings, Events about them, the Leases of gateways and the ConfigMap of the admission policy. apis/smartnat/conditions decides the content of a
// status; callers of this package authorize requests.
package status

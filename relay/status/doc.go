// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package status tells the authors of Mappings whether they work: it writes the conditions of Mappings into the cluster, takes
// what gateways say of themselves where that is allowed, and forgets gateways that went. It reads the relay's cache and writes
// nothing but the status of Mappings, Events about them and the Leases of gateways. What a status is to say is decided in
// apis/smartnat/conditions; who may say it, by those who call this package.
package status

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package meter keeps the totals of pkg/traffic up to date: it follows the connections that end, and reads the rest when a caller
// wants totals, within a budget of time. The kernel is behind interfaces. It programs nothing, and knows neither rules nor
// Kubernetes.
package meter

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package server puts the relay together: options become a config, a config becomes a server that reads the cluster,
// terminates TLS, lets the cluster say who a client is and what it may read, answers probes, and hands requests to
// package registry. It decides nothing about what leaves the cluster.
package server

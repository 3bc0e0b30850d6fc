// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package server assembles the relay. Options become a Config and a Config becomes a Server, which reads the cluster,
// terminates TLS, delegates authentication and authorization to the API server, answers probes, and hands requests to
// package registry. It does not decide which data leaves the cluster.
package server

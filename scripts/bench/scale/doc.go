// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command scale measures the cost of many ports for SmartNat with its relay, kube-proxy in each mode, and lean rules loaded
// manually. All of them run with the same objects of a real API server, one after the other on a new gateway of the lab. The
// result is a table; no test depends on it.
package main

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command relay measures the cost of the relay in a large cluster and compares it with the real kube-apiserver with the same
// objects and watchers: memory, processor time, bytes of a first sync, and the latency with which hundreds of watchers
// receive a change or recover from a restart. The result is a table; no test depends on a figure.
package main

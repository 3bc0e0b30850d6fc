// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command scale measures what many ports cost: SmartNat through its relay, kube-proxy in each of its modes and a lean rule
// set loaded by hand, all on the same objects of a real API server, one after the other on a gateway of the lab that is new each
// time. It judges nothing: what it finds is a table to be read, and no test fails by it.
package main

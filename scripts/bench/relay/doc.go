// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command relay measures what the relay costs in a large cluster, beside the real kube-apiserver with the same objects and the
// same watchers: memory, processor time, bytes of a first sync, and how soon hundreds of watchers hear of a change or are back
// after a restart. It judges nothing: what it finds is a table to be read, and no test fails by a figure.
package main

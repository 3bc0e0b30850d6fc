// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster has clients of the few kinds that the relay reads and writes in the cluster, which ask as those of client-go
// do: the clientsets would bring all kinds that there are into memory. It knows how a kind is asked for. What is made of that, it
// must never know, nor keep anything, nor decide who may see what.
package cluster

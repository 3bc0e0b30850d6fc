// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command datapath measures the cost of SmartNat for packets. It compares connections and traffic through a gateway that
// smartnatd programmed with the same path through a host that only routes, in turns within one run. It runs in the lab's
// network namespaces and sends nothing outside them. It needs no control plane: smartnatd reads its objects from a file. The
// result is a table; no test depends on it.
package main

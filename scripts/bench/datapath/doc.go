// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command datapath measures what a packet pays for SmartNat: connections and traffic through a gateway that it programmed,
// against the same wires through a host that only routes, in turns within one run. It lives in the lab's network
// namespaces and sends nothing outside them. It needs no control plane: smartnatd reads its objects from a file. It judges
// nothing: what it finds is a table to be read, and no test fails by it.
package main

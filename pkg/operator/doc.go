// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package operator answers an operator's questions about the running smartnatd over a local socket: HTTP with JSON on a Unix
// socket that only root may open. The Server is in the daemon, and the Client in the commands.
//
// Questions only read. The package never changes the daemon or the kernel, and never learns how packets are programmed: it gets
// its facts from the Daemon, a Router and the table of connections.
package operator

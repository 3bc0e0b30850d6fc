// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package iptables runs iptables-save and iptables-restore of the back end that the host uses, and says in typed errors
// what went wrong. It writes to the kernel only through those programs, asks it itself whether somebody wrote, and knows nothing
// of what the rules are for.
package iptables

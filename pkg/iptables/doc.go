// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package iptables runs iptables-save and iptables-restore of the back end that the host uses, and says in typed errors
// what went wrong. It touches the kernel only through those programs, and knows nothing of what the rules are for.
package iptables

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package rtnetlink reads and writes routes and policy routing rules in the kernel.
//
// It recognizes ours by the route protocol and the table or priority, and touches no others. pkg/policyrouting decides which
// ones a host needs.
package rtnetlink

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package policyrouting models routes and policy routing rules as values: which of them a State needs, how two sets differ,
// and the iproute2 commands for them.
//
// It is pure. pkg/rtnetlink transfers the values to and from the kernel.
package policyrouting

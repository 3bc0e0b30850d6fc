// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package policyrouting holds routes and rules of policy routing as values: which of them a State wants, what differs
// between two sets of them, and how iproute2 spells them.
//
// It is pure, and never knows how they get into the kernel: that is pkg/rtnetlink.
package policyrouting

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package explain answers the question of an operator: does a connection get through this gateway, and if not, why, and what is
// to be done?
//
// It compares what smartnatd wants (a finding.Report) with what the kernel's rules and routes do now (a packet.Tracer and a
// Router). It is pure apart from the calls of these two, and never knows how a rule is spelled, where the facts come from, or how
// an answer is printed.
package explain

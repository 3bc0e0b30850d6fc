// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package packet describes packets, and what packet rules do to them, in words that every data plane shares: the words of
// conntrack and netfilter's hooks. A data plane models its own rules as a Tracer, so that tests and operators can ask each data
// plane the same question.
//
// It is pure and knows only pkg/gateway. It never knows how a data plane spells a rule or chooses a Backend, nor how packets
// are routed: the caller of a Tracer answers that.
package packet

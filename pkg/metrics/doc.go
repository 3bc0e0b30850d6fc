// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics is what an operator can see of smartnatd from outside: Prometheus metrics and probes on one listener. It is
// told what was done and asks how things stand, both by values; it may open that listener and nothing else, and must never
// decide anything, nor hold up who tells it. It is the only package that knows Prometheus: nobody else counts.
package metrics

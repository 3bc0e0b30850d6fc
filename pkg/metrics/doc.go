// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics serves Prometheus metrics and probes of smartnatd on one listener. Callers report outcomes to it, and it
// reads the current status on each scrape. It opens that listener and nothing else, decides nothing and never blocks a
// caller. It is the only package that uses Prometheus.
package metrics

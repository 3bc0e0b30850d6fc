// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command failover measures what clients see of a pair of gateways when something fails: sessions that live on, the time without answers,
// and for how long both boxes hold an address. It runs in the lab's network namespaces, with the real smartnatd, keepalived and conntrackd,
// and sends nothing outside them. The result is a table; no test depends on it.
package main

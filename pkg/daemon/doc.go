// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package daemon runs smartnatd from its start to its end. It runs one generation, which is everything that belongs to one config,
// and a reload replaces it without a gap: the kernel state and, if possible, the objects stay. Systemd, probes and metrics see one
// status that covers all generations.
//
// It writes to the log and to systemd, and otherwise uses only its Options: it opens no file or socket, runs no program and
// constructs nothing that touches the kernel or an API. It must never know how packets are programmed, how objects are read, or
// how flags and files become a config. An operator's view of the running daemon (Status, Report) belongs here.
package daemon

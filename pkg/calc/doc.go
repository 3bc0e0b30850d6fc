// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package calc decides: from a Snapshot of the cluster's objects and what was observed of the host it computes the State that
// the data plane is to reach, and the Findings that tell why a Mapping is not, or only partly, in effect.
//
// It is pure: no clock, no I/O, no logging, no client. Equal inputs give equal outputs, in whatever order the objects came.
// It must never know how a State is spelled to the kernel.
//
// What a Mapping names belongs to it also while it leads nowhere: when the Service or its port is missing, or no endpoint is
// ready, connections from allowed sources are rejected at once. They must not fall through to whatever listens on the
// gateway itself on that port, and a client must not wait for a timeout.
package calc

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controller turns what changes into what is programmed: a work queue with one key, for the kernel is one object,
// and the one worker that empties it: snapshot -> calc -> dataplane. It decides nothing itself and touches neither the
// kernel nor the API: it is given a Source, a Host and a Dataplane, and never knows which.
package controller

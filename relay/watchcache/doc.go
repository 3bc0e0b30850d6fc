// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package watchcache holds the objects that leave the cluster and their recent history, under resource versions of its
// own.
//
// The versions of the cluster do not work here: a Service becomes visible when a Mapping names it, long after its own last
// change, and a watcher past that version would never see it. A Cache therefore numbers its events in one sequence for all
// kinds. The sequence begins at a random epoch, so that a Cache recognizes a version of another replica or of an earlier
// process as foreign.
//
// Watchers have no buffers. Each reads the history at its own pace; a watcher that falls behind the history gets
// ErrExpired and lists again.
//
// Package filter decides which objects and fields leave; this package applies its decisions and depends on the reflectors of
// client-go that fill it. It does not know HTTP or users.
package watchcache

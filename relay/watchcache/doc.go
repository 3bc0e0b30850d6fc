// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package watchcache holds what leaves the cluster, and the recent history of it, under resource versions of its own.
//
// The cluster's versions cannot be used: a Service becomes visible when a Mapping names it, long after its own last
// change, and a watcher that is past that version would never hear of it. So a Cache numbers what it publishes in one
// sequence for all kinds, and begins it at a random place, so that a version of another replica, or of an earlier
// process, is recognised as foreign and never misread.
//
// Watchers hold no buffers. A watcher reads the history at its own pace; one that is slower than the history is long is
// told so and lists again.
//
// Package watchcache knows package filter and the reflectors of client-go that fill it, and nothing of HTTP or users.
package watchcache

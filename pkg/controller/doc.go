// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controller applies the desired state to the kernel. One worker empties a work queue with a single key, because the
// kernel is one object: snapshot -> calc -> dataplane. The package decides nothing and reaches the kernel and the API only
// through the Source, Host and Dataplane that it is given.
package controller

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package worlds tries smartnatd in networks as people have them, each a small world of one kind: other programs, other
// links, real manifests. A world is a lab of hosts without a control plane, and smartnatd reads its objects from a file,
// so it stands within a second. What needs a real control plane is in scripts/lab/e2e.
package worlds

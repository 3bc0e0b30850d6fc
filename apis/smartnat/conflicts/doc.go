// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package conflicts decides which Mapping gets a port that several ask for: the oldest one, then the first by namespace
// and name. It is pure and reads only Mappings, because the cluster and all gateways must come to the same result. It must
// not know which addresses a host has.
package conflicts

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package conflicts says which Mapping has a port that several ask for. It is pure, looks at nothing but Mappings, and has to
// come to the same in the cluster and on every gateway: the oldest one wins, then the first by namespace and name. It must
// never know whether an address is on a host.
package conflicts

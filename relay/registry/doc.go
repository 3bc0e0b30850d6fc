// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package registry serves the contents of a watch cache in the protocol of the Kubernetes API: get, list and watch of
// three kinds, as JSON or protobuf, as tables or metadata alone; what tells clients of them, discovery and OpenAPI; and
// nothing else. It expects requests that were authenticated and authorized, and whose RequestInfo is in their context, so
// that what is served is what was authorized. It does not know users, TLS or the cluster.
package registry

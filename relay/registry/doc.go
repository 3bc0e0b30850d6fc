// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package registry serves the contents of a watch cache by the Kubernetes API protocol: get, list and watch of three
// kinds, as JSON or protobuf, as tables or metadata only, plus discovery and OpenAPI, and nothing else. Requests must be
// authenticated and authorized and must carry their RequestInfo in the context, so that the API serves exactly what was
// authorized. The package does not know users, TLS or the cluster.
package registry

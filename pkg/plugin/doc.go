// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plugin is kubectl smartnat without its command line: it enrolls gateways, and answers from the Kubernetes API what
// that knows about Mappings. It uses the rights of the person who runs it. It knows no host and no packets.
package plugin

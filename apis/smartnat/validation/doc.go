// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package validation decides whether a Mapping is valid, and names each invalid field and the valid values. It accepts the
// same Mappings as the schema and the CEL rules of apis/crds (a test there compares them), and serves for Mappings that no
// API server has validated. It is pure and looks at one Mapping only. It must not know the cluster, the host or other
// Mappings: pkg/calc finds conflicts and missing Services.
package validation

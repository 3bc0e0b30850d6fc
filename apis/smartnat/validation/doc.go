// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package validation says whether a Mapping is valid, and names each field that is not with what would be right. It has
// one meaning with the schema and the CEL rules of apis/crds (a test there compares them), and is for Mappings that the
// API server never saw or that got past it. It is pure, looks at one Mapping alone, and must never know the cluster,
// the host or other Mappings: conflicts and missing Services are found by pkg/calc.
package validation

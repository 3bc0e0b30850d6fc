// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 defines the Mapping, the custom resource of SmartNat: its types, its defaults and its registration with
// a runtime.Scheme. It is pure and does not know clients or the data path. Package apis/smartnat/validation defines which
// Mappings are valid.
//
// +k8s:deepcopy-gen=package
// +groupName=smartnat.aureacentral.com
package v1alpha1

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the Mapping, the one custom resource of SmartNat: its types, its defaults and its registration
// with a runtime.Scheme. It is pure: it knows neither clients nor the data path, and what is valid is said in
// apis/smartnat/validation.
//
// +k8s:deepcopy-gen=package
// +groupName=smartnat.aureacentral.com
package v1alpha1

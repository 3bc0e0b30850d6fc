// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package calctest walks at random through the objects of a cluster of tenants, and says from the specs of these objects alone who may
// reach what. It knows the meaning of PortGrants, Mappings, Services and EndpointSlices by their documentation, and shares no code with
// apis/smartnat/grants or calc, which tests compare with it. It touches nothing.
package calctest

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package calc decides: from a Snapshot of the cluster's objects and an observed host it computes the State for the data plane,
// and the Findings that say why a Mapping is not, or only partly, in effect.
//
// It is pure: no clock, no I/O, no logging, no client. Equal inputs give equal outputs, regardless of the order of objects. It
// must not know how the kernel spells a State.
//
// A Calculator is incremental, so that the cost of a change does not grow with the number of objects. It resolves what a
// Mapping asks for when the Mapping, its Service, the Service's slices or the addresses of the host change, and settles
// conflicts when any request changes. apis/smartnat/conflicts decides who wins, as in the cluster. Calculator.Calculate has the
// steps in order, settle.go what they do, and reuse.go which entries they have to visit.
//
// A Mapping owns its ports even while it has no backends: if the Service or its port is missing, or no endpoint is ready,
// connections from allowed sources are rejected at once. They must not reach a program on the gateway that listens on the same
// port, and clients must not have to wait for a timeout.
//
// Mode endpoints works as kube-proxy does on a node: it uses ready endpoints or, in a family without any, those that serve
// while they terminate, and the Service's sessionAffinity. It ignores settings that depend on the node of the client
// (internalTrafficPolicy, externalTrafficPolicy, trafficDistribution and topology hints), because a gateway is no node and in
// no zone. A range of ports leads straight to the pods, regardless of the ports of their Service and slices. In mode service
// the cluster balances. It sees the gateway as the client of all masqueraded connections, so the Service's affinity would lead
// them all to one endpoint.
//
// Conflicts about ports are settled for the whole cluster, so that all gateways agree, whichever host has the address. Egress
// is settled on each host: which pods leave with which address.
package calc

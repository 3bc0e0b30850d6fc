// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package calc decides: from a Snapshot of the cluster's objects and what was observed of the host it computes the State that
// the data plane is to reach, and the Findings that tell why a Mapping is not, or only partly, in effect.
//
// It is pure: no clock, no I/O, no logging, no client. Equal inputs give equal outputs, in whatever order the objects came.
// It must never know how a State is spelled to the kernel.
//
// A Calculator remembers what it computed, so that what one object costs does not grow with the number of others: what a
// Mapping asks for is found out again when it, its Service, the Service's slices or the addresses of the host change, and
// who has what when somebody asks for something else. Who wins is said by apis/smartnat/conflicts, as in the cluster.
//
// What a Mapping names belongs to it also while it leads nowhere: when the Service or its port is missing, or no endpoint is
// ready, connections from allowed sources are rejected at once. They must not fall through to whatever listens on the
// gateway itself on that port, and a client must not wait for a timeout.
//
// In mode endpoints it does as kube-proxy does on a node: ready endpoints, or where a family has none those that serve while
// they terminate, with the Service's sessionAffinity. What it does not follow is what is about the node that a packet is on:
// internalTrafficPolicy, externalTrafficPolicy, trafficDistribution and topology hints, as a gateway is no node and in no
// zone. A range of ports leads straight to the pods, whatever ports their Service and its slices name. In mode service the
// cluster balances, and sees the gateway as the one client of all connections whose source is masqueraded: the Service's
// affinity would then lead them all to one endpoint.
//
// What an older Mapping may have is settled for the whole cluster where it is about ports, so that all gateways agree on it
// wherever the address is; which pods leave with which address is settled on each host by itself.
package calc

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package gateway is the vocabulary of the data plane: what a gateway host exposes (Frontend), where it leads (Backend),
// through which links it talks to the outside (Uplink), what the host looks like (Host), and the whole desired
// State as one comparable value. It is pure, and knows neither Kubernetes nor iptables nor netlink, so that a
// second data plane can be written against the same State.
package gateway

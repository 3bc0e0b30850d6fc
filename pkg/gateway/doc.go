// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package gateway defines the vocabulary of the data plane: what a gateway host exposes (Frontend), where connections go
// (Backend), the links to the outside (Uplink), the observed host (Host), and the whole desired State as one comparable
// value. It is pure and does not depend on Kubernetes, iptables or netlink, so that a second data plane can be written
// against the same State.
package gateway

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package lab is a small world in network namespaces: clients, a router, a gateway with two uplinks, and a Kubernetes
// cluster whose control plane and kube-proxies are the real programs. Tests send real packets through it, and a person
// walks around in it. Everything lives in the namespaces that pkg/testenv makes and ends with them, so nothing outside
// is touched and nothing is left behind, however it ends. The lab knows SmartNat's programs by their command lines
// alone and never decides what they ought to do.
package lab

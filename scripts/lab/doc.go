// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package lab creates a small world in network namespaces: clients, a router, a gateway with two uplinks, and a Kubernetes
// cluster whose control plane and kube-proxies are the real programs. Tests send real packets through it, and people can
// explore it. Everything lives in the namespaces of pkg/testenv and disappears with them, however the process ends, so
// nothing outside is changed or left behind. The lab runs SmartNat's programs through their command lines and does not know
// what they should do.
package lab

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command demo shows packets that flow through a real smartnatd before any cluster is built: a gateway, a client and two pods
// in network namespaces, and objects in a file. It takes the path of smartnatd, needs root or user namespaces, and changes
// nothing outside its namespaces. Apart from testenv it imports nothing that smartnatd does not, so that a new machine compiles little for it;
// the lab, which needs a control plane, is the second act of `make demo`.
package main

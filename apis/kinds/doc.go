// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kinds is the table of the kinds that a gateway reads: how an API serves each of them, and which of its fields a
// gateway needs. The relay and the gateway both build on it, so a new kind begins with a row here. It is pure. It must not
// know which objects a client may see (package relay/filter decides that) nor what their content means.
package kinds

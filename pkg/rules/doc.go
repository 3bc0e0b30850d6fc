// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rules decides which chains and rules make a host do what a State asks for. It is pure: it says what is to be
// matched and where that leads; how iptables spells it is pkg/netfilter's, when it is written pkg/dataplane's.
//
// # How a packet travels
//
// mangle marks a connection with the uplink that it came in by, and its replies too, for policy routing. nat finds the
// forward by address, then protocol, then port, and translates; it marks the connection as forwarded and to be
// masqueraded, or the packet as one to drop or to reject. filter carries that out, lets forwarded connections pass, and
// nothing else that comes from an uplink. nat hides the client's address at last.
//
// # Why a tree
//
// Below each address and protocol stands a tree over the ports, as a router's over prefixes: a chain for a block of
// ports that is a power of two holds the rules of the ports themselves when these are few, and otherwise leads to its
// halves. So a packet meets few rules among many ports; a change of one port rewrites one chain; and the shape of the tree
// depends on the ports alone that are near, never on the order in which they came.
package rules

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rules decides which chains and rules make a host do what a State requires. It is pure. It decides what to match and
// where to jump; pkg/iptables/ruleset spells the rules for iptables, and pkg/dataplane decides when to write them.
//
// Build reads top down as a packet travels: raw.go, mangle.go, nat.go with tree.go and leaf.go, filter.go. A Builder keeps the
// chains whose input is unchanged; all that concerns this reuse is in reuse.go.
//
// # How a packet travels
//
// The mangle table marks a connection with the uplink by which it came in, and marks its replies for policy routing. The nat
// table finds the forward by address, then protocol, then port, and translates the packet. It marks the connection as forwarded
// and to be masqueraded, or the packet as one to drop or reject. The filter table executes these marks: it lets forwarded
// connections pass and nothing else that comes in by an uplink. At the end, the nat table hides the client's address.
//
// # Why a tree
//
// Each address and protocol has a tree over the ports, like a router's tree over prefixes. A chain covers an aligned block of
// ports. If the block has few rules, the chain holds them; otherwise it jumps to the chains of the two halves. A packet
// therefore meets few rules among many ports, and a change of one port rewrites one chain. The shape of the tree depends only
// on neighbouring ports, never on the order in which they were added.
//
// Adjacent ports become one rule, within one chain, if one rule can translate them: ten ports of a Mapping with the same
// endpoints cost no more than one. A comment names the Mapping of a rule and of the rules below it that have no comment.
//
// A port with more than 32 backends jumps to groups of up to 32, selected by the digests of the backends' addresses. With 1,000
// backends, the first packet of a connection then meets about twice the square root of 1,000 rules, and adding or removing a
// backend rewrites at most three chains.
//
// # What a packet pays
//
// Connection tracking and translation cost more than all rules countTogether. On one core of a busy EPYC, an established packet took
// 5.6 µs from socket to socket with routing alone. One DNAT rule and one MASQUERADE for its connection added 1.5 µs. All our
// rules for 10,000 ports added another 1.8 µs (legacy) to 2.1 µs (nf_tables). The first packet takes another 1 µs (legacy) to
// 1.8 µs (nf_tables) in the tree.
//
// Shares of the processor time of a short connection, by samples of the kernel: tracking 3 %, translation 4 %, our mangle rules
// 1.2 % (legacy) to 2.1 % (nf_tables), our filter rules 0.6 % to 1 %, and policy routing 1.8 %, because with any policy routing
// rule the kernel walks all of them for each packet. For any number of ports and uplinks, a reply meets five rules. A packet of
// the client meets seven and one more for each uplink, because it must not leave by any of them.
//
// The uplink is marked in mangle, for each packet, although nat would see only one packet of each connection. nat sees none if
// a base chain of another program with an earlier priority has translated the connection already. Connections that other
// programs publish on this host must also be answered by the uplink by which they came in.
//
// # What a change pays
//
// Before each commit, nf_tables walks all rules of a table that each of its base chains can reach (nft_chain_validate): four
// fifths of the cost of changing one endpoint among 10,000 ports with three endpoints each. PREROUTING and OUTPUT both reach
// the trees, so the kernel walks them twice, 27 ms instead of 15. State.ForwardedOnly saves the second walk.
//
// # Limits
//
// Affinity uses xt_recent, with one list of clients for each Service and endpoint. The names of the lists begin with the prefix
// of our chains. All ports and protocols of a Service share the list, so that the control and data connections of a client
// reach the same pod. A list holds ip_list_tot clients, a parameter of the kernel module, 100 by default. Beyond it, the
// clients that were idle for longest lose their endpoint. A packet checks the lists of all endpoints in turn, so affinity costs
// one rule for each endpoint. For each written rule that names a list, the kernel searches it among all lists, and legacy
// writes all rules each time: the cost is quadratic in the number of lists. 768 separate ports with 40 endpoints are 64,000
// rules and 40 lists, which legacy loads in 3 s and nf_tables in 10 s. If the ports are adjacent, they are 281 rules. A list
// for each port, as in kube-proxy, took 83 s. The assignment of clients survives changes of the rules and restarts of
// smartnatd, but not a reboot.
//
// Shifted port ranges need Linux 4.18 and iptables 1.8, for both variants and families. Without masquerading, the second
// connection of a client that sends from one port to the same port of two addresses with equal backends gets the next free port
// of the range, not the same one, because the kernel has nothing else to distinguish the connections. Single ports and ranges
// that are not shifted have no such limit, because the kernel changes the client's port for them.
//
// An answer of a backend is dropped if the kernel knows that it belongs to no connection (INVALID in conntrack). By the
// kernel's default (net.netfilter.nf_conntrack_tcp_loose), a packet that may be the middle of a TCP connection starts a new
// one. The host's own rules decide about it.
package rules

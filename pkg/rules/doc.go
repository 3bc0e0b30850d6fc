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
//
// Neighbours that one rule can lead are one rule, as far as they stand in one chain: ten ports of a Mapping that lead to the
// same endpoints cost no more than one. A comment names the Mapping of a rule and of those below it without one.
//
// Beyond 32 backends a port leads to groups of up to as many, by the digests of their addresses. The first packet of a
// connection then meets about twice the square root of 1,000 rules for 1,000 backends, and a backend that comes or goes
// rewrites at most three chains.
//
// # What a packet pays
//
// Connection tracking and translation cost more than all rules. An established packet on one core of a busy EPYC took 5.6 µs
// from socket to socket where it was only routed; 1.5 µs more where one DNAT rule and one MASQUERADE had translated its
// connection; and 1.8 µs (legacy) to 2.1 µs (nf_tables) more with all of ours for 10,000 ports. The first packet takes another
// 1 µs (legacy) to 1.8 µs (nf_tables) for its way through the tree.
//
// Of the processor time of a short connection, by samples of the kernel: tracking is 3 %, translation 4 %; of ours, mangle 1.2 %
// (legacy) to 2.1 % (nf_tables), filter 0.6 % to 1 %, and policy routing 1.8 %, as any rule of it makes the kernel walk all of
// them for each packet. However many ports and uplinks there are, replies meet five rules; what the client sends meets six and one
// more for each uplink, as it must not leave by any.
//
// The uplink is marked in mangle, although nat would be asked once a connection and not once a packet: nat is not asked at
// all where a base chain of somebody else's, with an earlier priority, has translated before; and connections that others
// publish on this host are to be answered by the uplink that they came in by, as well as ours.
//
// # What a change pays
//
// With nf_tables the kernel walks, before each commit, all rules of a table that each of its base chains leads to
// (nft_chain_validate): four fifths of what one endpoint takes at 10,000 ports of three. As PREROUTING and OUTPUT both lead to
// the trees, that is done twice, 27 ms in place of 15; State.ForwardedOnly spares the second.
//
// # Limits
//
// Affinity is kept by xt_recent: a list of clients for each Service and endpoint, whose names begin with the prefix of our
// chains. All ports and protocols of the Service share it, so that a client's control and data connections meet at one pod. A
// list holds ip_list_tot clients, a parameter of the kernel's module and 100 by default; beyond it, those that were not seen
// for longest lose their endpoint. Each endpoint's list is asked in turn, so that affinity among many endpoints costs one rule
// for each. The kernel looks for a list among all others whenever a rule that names it is written, and legacy writes all rules
// each time: that is quadratic in the lists. 768 ports that lie apart, of 40 endpoints, are 64,000 rules and 40 lists, loaded
// in 3 s by legacy and 10 s by nf_tables, and 281 rules where the ports are neighbours; a list for each port, as kube-proxy has
// it, took 83 s. Which endpoint a client had survives changes of the rules and restarts of smartnatd, not a reboot.
//
// Ranges whose ports are shifted need Linux 4.18 and iptables 1.8, for both back ends and families. Where masquerade is off,
// a client that sends from one port to the same port of two addresses with equal backends has its second connection led
// to the next free port of the range, not to the same one: the kernel tells such connections apart by nothing else. Single
// ports and ranges that are not shifted have no such limit, as the client's port is changed for them.
//
// An answer of a backend is dropped when the kernel knows no connection to it, and has been seen to belong to none
// (conntrack's INVALID). What looks like the middle of a TCP connection is taken up as a new one, by the kernel's
// default (net.netfilter.nf_conntrack_tcp_loose), and left to the host's own rules.
package rules

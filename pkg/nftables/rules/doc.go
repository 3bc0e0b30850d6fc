// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rules decides which chains, rules, sets and elements make a host do what a State requires. It is pure.
//
// Build reads top down as a packet travels: mangle.go, nat.go with forward.go, filter.go. Contribution says what one Forward
// adds to the table, so that a change costs only its Forwards.
//
// # How a packet travels
//
// The chain prerouting-mangle marks a connection with the uplink by which it came in, and marks its replies for policy routing.
// The map frontends leads the first packet of a connection from address, protocol and port to one of a few chains: pick-3
// translates it to one of three backends. It marks the connection as forwarded and to be masqueraded. Other chains drop packets
// from a source that is not allowed and reject those to a Frontend without Backends, immediately. The chain forward lets
// forwarded connections pass and nothing else that comes in by an uplink. At the end, postrouting-nat hides the client's
// address.
//
// If the State has a flowtable, the chain established adds connections to it. Their further packets take remembered routes and meet
// no chain. The kernel stops that when conntrack ends the connection, and when a route or link of it changes.
//
// # Why maps
//
// A Frontend and its Backends are elements of hash maps. The number of rules that a packet meets does not depend on the number
// of Forwards. A change of a Backend replaces at most as many elements as the Frontend has Backends, which are numbered in
// their order. The kernel walks all chains that a table's base chains reach, and all elements of verdict maps, before it commits
// a rule or a verdict (nft_table_validate), and does not for data. So Backends are data, by number: pick-3 draws the number. The
// chain of a Frontend is data too, which the small map chains turns into a verdict.
//
// If all gateways shall choose the same Backend, maglev-61 takes a number from a hash of the client, and the Backends fill 61 numbers
// as Maglev fills its table: a Backend that comes or goes changes few others.
//
// Ranges of ports are in the map ranges. Any commit that touches it copies it (nft_set_pipapo.c), and packets meet its rule only
// if it has elements. While ranges are replaced, the new ones are in the map moving-ranges too. Chains and sets that are named
// after a digest have the content that the digest covers, and are shared by all Forwards that need the same.
//
// # Limits
//
// The port of a shifted range needs a flag of NAT that nft(8) cannot spell (NF_NAT_RANGE_PROTO_OFFSET, with a base of 0).
package rules

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package quarantine keeps a Mapping whose rules the kernel or iptables refuses from holding up all others: a table is
// committed whole or not at all. It stands before a Dataplane, and speaks of States and of who owns what in them alone.
//
// While nothing is refused it hands on what it is given. When a write is refused for what it says, parts of the State are
// tried, halves of halves, in chains that no packet meets, until it is known which of them are refused alone. A part is
// what one owner asks for in one family. Those parts are set aside: the rest is programmed, and of what they had before
// stays what they still ask for. They are tried again when they ask for something else, when what all share is another, and
// after a time that grows.
//
// It is pure but for the Dataplane that it is given: it knows neither iptables nor a clock.
package quarantine

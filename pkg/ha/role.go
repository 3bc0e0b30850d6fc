// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"net/netip"
	"slices"
	"time"
)

// Role is what a box of a pair does.
type Role string

// The roles. Fault is a backup that cannot take over, and Partial one that holds only some of the addresses, as during a takeover.
const (
	Primary Role = "primary"
	Backup  Role = "backup"
	Fault   Role = "fault"
	Partial Role = "partial"
	// Stopped means that keepalived was stopped.
	Stopped Role = "stopped"
)

// Notified is what keepalived said last, in the form of RoleFile.
type Notified struct {
	Role  Role      `json:"role"`
	Since time.Time `json:"since"`
}

// Roles returns those that keepalived can announce.
func Roles() []Role { return []Role{Primary, Backup, Fault, Stopped} }

// RoleOf returns the role of a box that holds some addresses. They decide: keepalived may have died since it said something. A
// zero time means that the begin is unknown.
func RoleOf(virtual []netip.Addr, held func(netip.Addr) bool, said Notified) Notified {
	n := 0
	for _, a := range virtual {
		if held(a) {
			n++
		}
	}
	role := Partial
	switch n {
	case len(virtual):
		role = Primary
	case 0:
		role = Backup
		if said.Role != Primary && slices.Contains(Roles(), said.Role) {
			role = said.Role
		}
	}
	if role != said.Role {
		return Notified{Role: role}
	}
	return said
}

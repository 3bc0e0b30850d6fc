// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

const (
	// maxGrants is the number of PortGrants that an Event names.
	maxGrants = 5
	// maxPorts is the longest text about ports and grants. The writer takes less than the rest of a note.
	maxPorts = 390
)

// account is what Events add to the message of a condition: the ports and the PortGrants that allow them, and who last wrote the spec. All of
// it is the relay's own knowledge: no text of a gateway is in it.
type account struct{ ports, writer string }

func newAccount(m *v1alpha1.Mapping, of v1alpha1.MappingStatus, granted []string) account {
	ports := fmt.Sprintf("%s %s", of.Addresses, of.Ports)
	if n := len(granted); n > 0 {
		ports += ", by PortGrant " + strings.Join(granted[:min(n, maxGrants)], ", ")
		if n > maxGrants {
			ports += fmt.Sprintf(" and %d more", n-maxGrants)
		}
	}
	a := account{ports: shorten(ports, maxPorts)}
	// The name is quoted, because its author chose it.
	for _, w := range kinds.SpecWriter(m.ManagedFields) {
		a.writer = fmt.Sprintf("; spec last written by %q (%s)", w.Manager, w.Operation)
		if w.Time != nil {
			a.writer += " at " + w.Time.UTC().Format(time.RFC3339)
		}
	}
	return a
}

// shorten cuts a text at most bytes.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-3], "") + "..."
}

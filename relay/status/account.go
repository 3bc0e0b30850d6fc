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
	// maxOpen is the longest text about what is open. The writer takes less than the rest of a note.
	maxOpen = 400
)

// account is what Events add to the message of a condition: what is open and by which PortGrants, and who last wrote the spec. All of it is
// the relay's own knowledge: no text of a gateway is in it.
type account struct{ open, writer string }

func newAccount(m *v1alpha1.Mapping, decided v1alpha1.MappingStatus, granted []string) account {
	open := fmt.Sprintf("; open: %s %s", decided.Addresses, decided.Ports)
	if n := len(granted); n > 0 {
		open += ", by PortGrant " + strings.Join(granted[:min(n, maxGrants)], ", ")
		if n > maxGrants {
			open += fmt.Sprintf(" and %d more", n-maxGrants)
		}
	}
	a := account{open: shorten(open, maxOpen)}
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

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// Record is a Flow in the flow log. The names of its fields never change.
type Record struct {
	// End is when the kernel forgot the connection, Start when it began, or zero if unknown.
	End   time.Time `json:"end"`
	Start time.Time `json:"start,omitzero"`
	// Mapping is namespace/name.
	Mapping         string         `json:"mapping,omitempty"`
	Protocol        string         `json:"protocol,omitempty"`
	Client          netip.AddrPort `json:"client,omitzero"`
	External        netip.AddrPort `json:"external,omitzero"`
	Backend         netip.AddrPort `json:"backend,omitzero"`
	Seen            netip.AddrPort `json:"seen,omitzero"`
	BytesFromClient uint64         `json:"bytesFromClient,omitempty"`
	BytesToClient   uint64         `json:"bytesToClient,omitempty"`
	// Lost means that connections that ended until End are missing. Such a Record has no other field.
	Lost bool `json:"lost,omitempty"`
}

// NewRecord returns the Record of a Flow that ended, by default now.
func NewRecord(f Flow, mapping string, now time.Time) Record {
	end := f.End
	if end.IsZero() {
		end = now
	}
	return Record{
		End: end.UTC(), Start: f.Start, Mapping: mapping, Protocol: string(f.Protocol), Client: f.Client, External: f.External, Backend: f.Backend, Seen: f.Seen,
		BytesFromClient: f.FromClient.Bytes, BytesToClient: f.ToClient.Bytes,
	}
}

// Flow returns the Flow.
func (r Record) Flow() Flow {
	return Flow{
		Protocol: gateway.Protocol(r.Protocol), Client: r.Client, External: r.External, Backend: r.Backend, Seen: r.Seen, State: "ENDED",
		Start: r.Start, End: r.End, FromClient: traffic.Volume{Bytes: r.BytesFromClient}, ToClient: traffic.Volume{Bytes: r.BytesToClient},
	}
}

// Question asks which client was behind an address that a backend saw.
type Question struct {
	Seen     netip.AddrPort
	Protocol gateway.Protocol
	// At is the time, or zero for any.
	At time.Time
}

// ParseQuestion parses ADDRESS:PORT[/PROTOCOL], by default tcp.
func ParseQuestion(text string) (Question, error) {
	address, protocol, found := strings.Cut(text, "/")
	q := Question{Protocol: gateway.Protocol(cmp.Or(strings.ToLower(protocol), string(gateway.TCP)))}
	if found && !slices.Contains([]gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP}, gateway.Protocol(strings.ToLower(protocol))) {
		return q, fmt.Errorf("protocol %q: want tcp, udp or sctp", protocol)
	}
	seen, err := netip.ParseAddrPort(address)
	if err != nil || seen.Addr().Zone() != "" || seen.Port() == 0 {
		return q, fmt.Errorf("%q: want ADDRESS:PORT as the backend saw it, such as 10.10.0.2:41023 or [fd00::2]:41023", address)
	}
	q.Seen = netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port())
	return q, nil
}

// Match reports whether a Flow is an answer, and whether that is certain: without a start, it may have begun later than the time
// that is asked for.
func (q Question) Match(f Flow) (matches, certain bool) {
	if f.Seen != q.Seen || f.Protocol != q.Protocol {
		return false, false
	}
	if q.At.IsZero() {
		return true, true
	}
	if !f.End.IsZero() && f.End.Before(q.At) || f.Start.After(q.At) {
		return false, false
	}
	return true, !f.Start.IsZero()
}

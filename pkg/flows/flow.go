// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// Flow is a connection, or an exchange of datagrams, that a Mapping translated.
type Flow struct {
	Protocol gateway.Protocol
	// Client connected to External, and Backend answers. For a connection that a pod opened, Client is the pod, and External and
	// Backend are both the server.
	Client, External, Backend netip.AddrPort
	// Seen is the source that the Backend saw: the Client, or an address of the gateway.
	Seen netip.AddrPort
	// State is that of conntrack, such as ESTABLISHED, or whether there was an answer.
	State string
	// Start and End are zero if the kernel does not know them (net.netfilter.nf_conntrack_timestamp), and End while it is open.
	Start, End time.Time
	// FromClient and ToClient are zero if the kernel does not count (net.netfilter.nf_conntrack_acct).
	FromClient, ToClient traffic.Volume
}

// Leaving reports whether a pod opened the connection, which left with an external address.
func (f Flow) Leaving() bool { return f.External == f.Backend && f.Seen != f.Client }

func (f Flow) bytes() uint64 { return f.FromClient.Bytes + f.ToClient.Bytes }

// compare orders Flows by their bytes, most first.
func (f Flow) compare(o Flow) int {
	return cmp.Or(cmp.Compare(o.bytes(), f.bytes()), f.Client.Compare(o.Client), f.External.Compare(o.External))
}

// Top keeps the Flows with the most bytes. It holds twice the limit at most.
type Top struct {
	limit, total int
	flows        []Flow
}

// NewTop returns a Top that keeps at most limit Flows.
func NewTop(limit int) *Top { return &Top{limit: limit} }

// Add adds a Flow.
func (t *Top) Add(f Flow) {
	t.total++
	t.flows = append(t.flows, f)
	if len(t.flows) >= 2*max(t.limit, 1) {
		t.cut()
	}
}

func (t *Top) cut() {
	slices.SortFunc(t.flows, Flow.compare)
	t.flows = t.flows[:min(t.limit, len(t.flows))]
}

// Flows returns those that were kept, most bytes first, and the number of all that were added.
func (t *Top) Flows() (kept []Flow, total int) {
	t.cut()
	return t.flows, t.total
}

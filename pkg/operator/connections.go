// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/flows"
)

// MaxConnections bounds the connections of an answer.
const MaxConnections = 10000

// Connections are those that are open, or a part of them.
type Connections struct {
	// Total counts all that were asked for. Connections has those with the most bytes.
	Total       int          `json:"total"`
	Connections []Connection `json:"connections"`
}

// Connection is a connection, or an exchange of datagrams, that a Mapping translated.
type Connection struct {
	// Mapping is namespace/name. It is empty if the Mapping is gone.
	Mapping  string `json:"mapping,omitempty"`
	Protocol string `json:"protocol"`
	// Client connected to External, and Backend answers. If Leaving is set, Client is a pod that opened a connection to Backend.
	Client   netip.AddrPort `json:"client"`
	External netip.AddrPort `json:"external"`
	Backend  netip.AddrPort `json:"backend"`
	Leaving  bool           `json:"leaving,omitempty"`
	// Seen is the source that the Backend sees.
	Seen  netip.AddrPort `json:"seen"`
	State string         `json:"state"`
	// Start is zero if the kernel does not know it.
	Start time.Time `json:"start,omitzero"`
	// BytesFromClient and BytesToClient include IP headers.
	BytesFromClient uint64 `json:"bytesFromClient"`
	BytesToClient   uint64 `json:"bytesToClient"`
}

func newConnection(f flows.Flow, owner string) Connection {
	return Connection{
		Mapping: owner, Protocol: string(f.Protocol), Client: f.Client, External: f.External, Backend: f.Backend, Leaving: f.Leaving(),
		Seen: f.Seen, State: f.State, Start: f.Start, BytesFromClient: f.FromClient.Bytes, BytesToClient: f.ToClient.Bytes,
	}
}

func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 || limit > MaxConnections {
		http.Error(w, fmt.Sprintf("limit %q: want a number from 1 to %d", r.URL.Query().Get("limit"), MaxConnections), http.StatusBadRequest)
		return
	}
	report, ok := s.report(w)
	if !ok {
		return
	}
	mapping := r.URL.Query().Get("mapping")
	known := func(m *v1alpha1.Mapping) bool { return m.Namespace+"/"+m.Name == mapping }
	if mapping != "" && !slices.ContainsFunc(report.Snapshot.Mappings, known) {
		http.Error(w, fmt.Sprintf("there is no Mapping %s: 'smartnatd status' lists all", mapping), http.StatusBadRequest)
		return
	}
	owners, top := flows.NewOwners(report.State), flows.NewTop(limit)
	if err := s.Flows(func(f flows.Flow) {
		if mapping == "" || owners.Of(f) == mapping {
			top.Add(f)
		}
	}); err != nil {
		http.Error(w, oneLine(err), http.StatusInternalServerError)
		return
	}
	kept, total := top.Flows()
	answer := Connections{Total: total, Connections: []Connection{}}
	for _, f := range kept {
		answer.Connections = append(answer.Connections, newConnection(f, owners.Of(f)))
	}
	s.write(w, answer)
}

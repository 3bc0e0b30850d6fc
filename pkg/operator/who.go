// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/flows"
)

// maxClients bounds the clients of an answer: a port may have served many connections, one after the other.
const maxClients = 100

// Clients are those behind an address that a backend saw.
type Clients struct {
	Seen     netip.AddrPort `json:"seen"`
	Protocol string         `json:"protocol"`
	At       time.Time      `json:"at,omitzero"`
	// Total counts all clients. Clients has the latest ones: those that are connected, and then by the end of the connection.
	Total   int                `json:"total"`
	Clients []ClientConnection `json:"clients"`
	// Log says how much is known about connections that ended.
	Log FlowLog `json:"log"`
}

// ClientConnection is a connection of a client.
type ClientConnection struct {
	Connection
	// End is zero while the connection is open.
	End time.Time `json:"end,omitzero"`
	// Uncertain means that the connection may have begun after the time that was asked for.
	Uncertain bool `json:"uncertain,omitempty"`
}

// FlowLog says what the log of ended connections covers.
type FlowLog struct {
	// File is empty if there is no log.
	File string `json:"file,omitempty"`
	// Oldest is the end of the oldest connection in the log.
	Oldest time.Time `json:"oldest,omitzero"`
	// Losses counts the times when connections are missing, at or after the time that was asked for.
	Losses int `json:"losses"`
}

func (s *Server) who(w http.ResponseWriter, r *http.Request) {
	q, err := flows.ParseQuestion(r.URL.Query().Get("seen"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if text := r.URL.Query().Get("at"); text != "" {
		if q.At, err = time.Parse(time.RFC3339Nano, text); err != nil {
			http.Error(w, "at: want a time such as 2026-01-31T15:04:05Z", http.StatusBadRequest)
			return
		}
	}
	report, ok := s.report(w)
	if !ok {
		return
	}
	owners := flows.NewOwners(report.State)
	answer := Clients{Seen: q.Seen, Protocol: string(q.Protocol), At: q.At, Clients: []ClientConnection{}, Log: FlowLog{File: s.Daemon.Config().FlowLog.File}}
	if err := s.Flows(func(f flows.Flow) {
		if matches, certain := q.Match(f); matches {
			answer.add(ClientConnection{Connection: newConnection(f, owners.Of(f)), Uncertain: !certain})
		}
	}); err != nil {
		http.Error(w, oneLine(err), http.StatusInternalServerError)
		return
	}
	if answer.Log.File != "" {
		found, err := s.FlowLog(answer.Log.File, q, func(r flows.Record, certain bool) {
			answer.add(ClientConnection{Connection: newConnection(r.Flow(), r.Mapping), End: r.End, Uncertain: !certain})
		})
		if err != nil {
			http.Error(w, oneLine(err), http.StatusInternalServerError)
			return
		}
		answer.Log.Oldest, answer.Log.Losses = found.Oldest, found.Losses
	}
	answer.sort()
	s.write(w, answer)
}

// add adds a client. It keeps twice the maximum at most.
func (a *Clients) add(c ClientConnection) {
	a.Total++
	a.Clients = append(a.Clients, c)
	if len(a.Clients) >= 2*maxClients {
		a.sort()
	}
}

// sort brings those first that are connected, and keeps the maximum.
func (a *Clients) sort() {
	slices.SortStableFunc(a.Clients, func(x, y ClientConnection) int {
		if open := x.End.IsZero(); open != y.End.IsZero() {
			return map[bool]int{true: -1, false: 1}[open]
		}
		return y.End.Compare(x.End)
	})
	a.Clients = a.Clients[:min(maxClients, len(a.Clients))]
}

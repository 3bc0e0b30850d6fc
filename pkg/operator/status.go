// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/meter"
)

// State is the condition of a gateway.
type State string

// The states.
const (
	Starting State = "starting"
	Degraded State = "degraded"
	InEffect State = "in effect"
)

// Status is the condition of a gateway and of everything on it.
type Status struct {
	Version  string `json:"version"`
	Instance string `json:"instance"`
	State    State  `json:"state"`
	// Missing says what keeps the gateway from being complete, and why.
	Missing  []string  `json:"missing,omitempty"`
	Source   Source    `json:"source"`
	Uplinks  []Uplink  `json:"uplinks"`
	Mappings []Mapping `json:"mappings"`
	// TrafficRead is when the traffic of Mappings was read; readings that take long are rare.
	TrafficRead time.Time `json:"trafficRead,omitzero"`
	// Findings are those about the host.
	Findings []Finding `json:"findings,omitempty"`
	// Pair is the pair of which the gateway is one, or nil.
	Pair *ha.Status `json:"pair,omitempty"`
	// Announced is what the gateway announces to its router, or nil.
	Announced *announce.Status `json:"announced,omitempty"`
}

// Source is where the objects come from. Unknown times are zero.
type Source struct {
	// Origin is the server, the kubeconfig or the files.
	Origin string `json:"origin"`
	// Connected is set while the objects are known to be current; Problem says why they are not.
	Connected bool   `json:"connected"`
	Problem   string `json:"problem,omitempty"`
	// LastContact is the time of the last valid answer, and CredentialEnds when the client certificate or token expires.
	LastContact    time.Time `json:"lastContact,omitzero"`
	CredentialEnds time.Time `json:"credentialEnds,omitzero"`
	// Servers are those of a relay.
	Servers []RelayServer `json:"servers,omitempty"`
}

// RelayServer is one of the servers of a relay.
type RelayServer struct {
	// Name is HOST:PORT.
	Name string `json:"name"`
	// InUse is set for the one that gets the next request first.
	InUse bool `json:"inUse"`
	// Failures counts the requests that it did not answer, or not validly, since the start of smartnatd.
	Failures int64 `json:"failures"`
}

// Uplink is a link to the outside.
type Uplink struct {
	Link   string `json:"link"`
	Number int    `json:"number"`
	Up     bool   `json:"up"`
	// Addresses are the host's on the link, without link-local ones.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Gateways  []netip.Addr `json:"gateways,omitempty"`
}

// Mapping is the condition of a Mapping on this gateway.
type Mapping struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Service   string `json:"service"`
	// Ready is set if this gateway forwards every connection that the Mapping asks it for. Elsewhere is set if the gateway has
	// none of its addresses.
	Ready     bool `json:"ready"`
	Elsewhere bool `json:"elsewhere,omitempty"`
	// Frontends are in effect here.
	Frontends []string `json:"frontends,omitempty"`
	// LastChange is when its Frontends, their Backends or sources last changed in the kernel. It is zero if that was before smartnatd
	// started.
	LastChange time.Time `json:"lastChange,omitzero"`
	// Traffic is the sum over the Frontends since the start of smartnatd. It is nil if it is not counted, or if no packet came.
	Traffic *Traffic `json:"traffic,omitempty"`
	// Findings say why it is not ready, and what else its owner should know.
	Findings []Finding `json:"findings,omitempty"`
}

// Traffic is what a Mapping carried.
type Traffic struct {
	// Open is the number of connections at the moment, and Connections of all so far.
	Open        int    `json:"open"`
	Connections uint64 `json:"connections"`
	// BytesFromClients and BytesToClients include IP headers.
	BytesFromClients uint64 `json:"bytesFromClients"`
	BytesToClients   uint64 `json:"bytesToClients"`
	// Dropped counts packets from sources that are not allowed, and Rejected those without an endpoint. They are nil if the data
	// plane does not count them.
	Dropped  *uint64 `json:"dropped,omitempty"`
	Rejected *uint64 `json:"rejected,omitempty"`
}

// Finding says what is not in effect, why, and what would be right.
type Finding struct {
	Reason  string `json:"reason"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

// newStatus collects the condition of the daemon. A nil report means that there was no apply yet.
func newStatus(version string, cfg config.Config, s daemon.Status, report *finding.Report) Status {
	status := Status{
		Version: version, Instance: cfg.Instance, State: stateOf(s), Missing: s.Missing, Source: sourceOf(cfg.Source, s),
		Uplinks: []Uplink{}, Mappings: []Mapping{},
	}
	if report == nil {
		return status
	}
	for _, u := range report.State.Uplinks {
		status.Uplinks = append(status.Uplinks, uplinkOf(u, report.Host))
	}
	status.Mappings, status.Findings = mappings(report)
	return status
}

func stateOf(s daemon.Status) State {
	switch {
	case !s.Ready:
		return Starting
	case s.Degraded():
		return Degraded
	}
	return InEffect
}

func sourceOf(cfg config.Source, s daemon.Status) Source {
	at := Source{Connected: s.Synced && !s.Contact.Lost, LastContact: s.Contact.Last, CredentialEnds: s.CredentialEnds}
	for _, server := range s.Contact.Servers {
		at.Servers = append(at.Servers, RelayServer(server))
	}
	switch {
	case cfg.Files != nil:
		at.Origin = "files " + strings.Join(cfg.Files.Paths, ", ")
	case cfg.Relay != nil:
		at.Origin = "relay " + strings.Join(cfg.Relay.Servers, ", ")
	case cfg.Kubeconfig != nil:
		at.Origin = "kubeconfig " + cfg.Kubeconfig.Path
	}
	switch {
	case s.Contact.Lost:
		at.Problem = "lost since " + s.Contact.Since.UTC().Format(time.RFC3339) + ": " + s.Contact.Why
	case !s.Restored.IsZero():
		at.Problem = "not read since the start, objects are from " + s.Restored.UTC().Format(time.RFC3339)
	case !s.Synced:
		at.Problem = "waiting for the first complete list of objects"
	}
	return at
}

func uplinkOf(u gateway.Uplink, host gateway.Host) Uplink {
	up := Uplink{Link: u.Link, Number: u.Number, Gateways: u.Gateways}
	for _, link := range host.Links {
		if link.Name != u.Link {
			continue
		}
		up.Up = link.Up
		for _, prefix := range link.Addresses {
			if !prefix.Addr().IsLinkLocalUnicast() {
				up.Addresses = append(up.Addresses, prefix.Addr())
			}
		}
	}
	return up
}

// count adds the traffic of each Mapping.
func (s *Status) count(reading meter.Reading) {
	s.TrafficRead = reading.At
	all := map[string]*Traffic{}
	for _, e := range reading.Entries {
		sum := all[e.Owner]
		if sum == nil {
			sum = &Traffic{}
			all[e.Owner] = sum
		}
		sum.Open += e.Open
		sum.Connections += e.Connections
		sum.BytesFromClients += e.FromClient.Bytes
		sum.BytesToClients += e.ToClient.Bytes
		if reading.Refusals {
			sum.Dropped, sum.Rejected = ptr.To(ptr.Deref(sum.Dropped, 0)+e.Dropped), ptr.To(ptr.Deref(sum.Rejected, 0)+e.Rejected)
		}
	}
	for i := range s.Mappings {
		s.Mappings[i].Traffic = all[s.Mappings[i].Namespace+"/"+s.Mappings[i].Name]
	}
}

// mappings returns the condition of all Mappings, sorted by namespace and name, and the findings about the host.
func mappings(report *finding.Report) ([]Mapping, []Finding) {
	frontends := map[string][]string{}
	for _, f := range report.State.Forwards {
		frontends[f.Owner] = append(frontends[f.Owner], f.String())
	}
	type verdict struct {
		findings           []Finding
		blocked, elsewhere bool
	}
	verdicts := map[string]verdict{}
	var host []Finding
	for _, f := range report.Findings {
		found := Finding{f.Reason, f.Field, f.Message}
		if f.Name == "" {
			host = append(host, found)
			continue
		}
		owner := f.Namespace + "/" + f.Name
		v := verdicts[owner]
		v.findings = append(v.findings, found)
		v.blocked = v.blocked || f.Blocks()
		v.elsewhere = v.elsewhere || f.Elsewhere()
		verdicts[owner] = v
	}
	all := make([]Mapping, 0, len(report.Snapshot.Mappings))
	for _, m := range report.Snapshot.Mappings {
		owner := m.Namespace + "/" + m.Name
		v, here := verdicts[owner], frontends[owner]
		all = append(all, Mapping{
			Namespace: m.Namespace, Name: m.Name, Service: m.Spec.ServiceName, Frontends: here, Findings: v.findings,
			Ready: len(here) > 0 && !v.blocked, Elsewhere: len(here) == 0 && v.elsewhere && !v.blocked,
		})
	}
	slices.SortFunc(all, func(a, b Mapping) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return all, host
}

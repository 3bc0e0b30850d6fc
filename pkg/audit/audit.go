// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Result is what happened to a Frontend.
type Result string

// The results.
const (
	// Opened: connections to it are translated from now on.
	Opened Result = "opened"
	// Changed: the same Mapping has it, with other sources or by another grant.
	Changed Result = "changed"
	// Closed: connections to it are no longer translated, or not for this Mapping.
	Closed Result = "closed"
	// Refused: a Mapping asks for it and does not get it. A Frontend that was open is only closed, with the reason of the refusal.
	Refused Result = "refused"
)

// The reasons that are not those of a refusal, which are of package finding.
const (
	// ReasonRequested: a Mapping asks for it.
	ReasonRequested = "Requested"
	// ReasonSourcesChanged: other clients are allowed.
	ReasonSourcesChanged = "SourcesChanged"
	// ReasonGrantChanged: another PortGrant, or another entry of pinnedGrants, allows it.
	ReasonGrantChanged = "GrantChanged"
	// ReasonWithdrawn: the Mapping no longer asks for it.
	ReasonWithdrawn = "Withdrawn"
	// ReasonDeleted: the gateway no longer sees the Mapping.
	ReasonDeleted = "Deleted"
	// ReasonAddressChanged: pods of the Mapping leave with another one of its addresses.
	ReasonAddressChanged = "AddressChanged"
	// ReasonNoPods: no pod of the Mapping is left to leave with the address.
	ReasonNoPods = "NoPods"
)

// Record says what happened to one Frontend, or to the egress of a Mapping by one address. A range is one Frontend.
type Record struct {
	Result Result
	Reason string
	// Mapping is the Mapping, as namespace/name.
	Mapping string
	// Frontend is the zero value if the Mapping is invalid, so that it is unknown what it asks for.
	gateway.Frontend
	// Egress is set if pods of the Mapping leave with the Address of the Frontend, which has no ports. If it is refused, it has no Address either.
	Egress bool
	// Sources are the allowed clients of a Frontend that is open now; empty means all, or none if SourcesDeny is set.
	Sources     []netip.Prefix
	SourcesDeny bool
	// AllowedBy is what allows the Frontend, or did until it was closed. It is the zero value if it needs no grant.
	AllowedBy gateway.Allowance
	Writer    Writer
}

// Writer is the field manager that last wrote the spec of a Mapping, as far as the object says so.
type Writer struct {
	Manager, Operation string
	Time               time.Time
}

// Kinds returns all combinations of a Result and a Reason that Records have.
func Kinds() []Record {
	all := []Record{
		{Result: Opened, Reason: ReasonRequested}, {Result: Changed, Reason: ReasonSourcesChanged}, {Result: Changed, Reason: ReasonGrantChanged},
		{Result: Closed, Reason: ReasonWithdrawn}, {Result: Closed, Reason: ReasonDeleted}, {Result: Closed, Reason: finding.ReasonAddressNotOnHost},
		{Result: Closed, Reason: ReasonAddressChanged}, {Result: Closed, Reason: ReasonNoPods}, {Result: Closed, Reason: finding.ReasonEgressConflict}, {Result: Refused, Reason: finding.ReasonEgressConflict},
	}
	for _, reason := range finding.RefusalReasons() {
		all = append(all, Record{Result: Closed, Reason: reason}, Record{Result: Refused, Reason: reason})
	}
	return all
}

// Diff returns what changed from one report to the next: what was closed, then what was opened or changed, then what was refused, each
// sorted by Frontend, with egress last. It compares content, so a report about the same changes nothing.
func Diff(before, now *finding.Report) []Record {
	d := differ{before: before, now: now}
	d.forwards()
	d.refused()
	d.egresses()
	return slices.Concat(d.closed, d.opened, d.refusals)
}

type differ struct {
	before, now              *finding.Report
	closed, opened, refusals []Record
	// refusedOf are the refusals of now, made on first use.
	refusedOf map[owned][]finding.Refused
}

// owned is what a Mapping asks for at one address.
type owned struct {
	owner    string
	address  netip.Addr
	protocol gateway.Protocol
}

func (d *differ) forwards() {
	for was, is := range gateway.DifferingForwards(d.before.State.Forwards, d.now.State.Forwards) {
		if was != nil && is != nil && was.Owner == is.Owner {
			if reason := change(was, is); reason != "" {
				d.opened = append(d.opened, d.record(Changed, reason, is))
			}
			continue
		}
		if was != nil {
			d.closed = append(d.closed, d.record(Closed, d.whyClosed(was), was))
		}
		if is != nil {
			d.opened = append(d.opened, d.record(Opened, ReasonRequested, is))
		}
	}
}

// change returns the reason why a Forward of the same Mapping is another one, or "" if it only leads to other backends.
func change(was, is *gateway.Forward) string {
	switch {
	case was.SourcesDeny != is.SourcesDeny || !slices.Equal(was.Sources, is.Sources):
		return ReasonSourcesChanged
	case allowance(was) != allowance(is):
		return ReasonGrantChanged
	}
	return ""
}

func allowance(f *gateway.Forward) gateway.Allowance {
	if f.AllowedBy == nil {
		return gateway.Allowance{}
	}
	return *f.AllowedBy
}

func (d *differ) record(result Result, reason string, f *gateway.Forward) Record {
	r := Record{Result: result, Reason: reason, Mapping: f.Owner, Frontend: f.Frontend, AllowedBy: allowance(f), Writer: d.writer(f.Owner)}
	if result != Closed {
		r.Sources, r.SourcesDeny = f.Sources, f.SourcesDeny
	}
	return r
}

func (d *differ) whyClosed(f *gateway.Forward) string {
	if reason := d.refusal(f); reason != "" {
		return reason
	}
	if away := gateway.FindForward(d.now.State.Absent.Forwards, f.Protocol, netip.AddrPortFrom(f.Address, f.Ports.First)); away != nil && away.Owner == f.Owner {
		return finding.ReasonAddressNotOnHost
	}
	if mappingOf(d.now, f.Owner) == nil {
		return ReasonDeleted
	}
	return ReasonWithdrawn
}

// refusal returns the reason why the Mapping of a Forward does not get some of its ports now, or "".
func (d *differ) refusal(f *gateway.Forward) string {
	if d.refusedOf == nil {
		d.refusedOf = map[owned][]finding.Refused{}
		for _, r := range d.now.Refused {
			key := owned{r.Owner, r.Address, r.Protocol}
			d.refusedOf[key] = append(d.refusedOf[key], r)
		}
	}
	if len(d.refusedOf[owned{owner: f.Owner}]) > 0 {
		return finding.ReasonInvalid
	}
	sorted := d.refusedOf[owned{f.Owner, f.Address, f.Protocol}]
	i, _ := slices.BinarySearchFunc(sorted, f.Ports.First, func(r finding.Refused, port uint16) int { return cmp.Compare(r.Ports.Last, port) })
	if i < len(sorted) && sorted[i].Ports.Overlaps(f.Ports) {
		return sorted[i].Reason
	}
	return ""
}

// refused records what is refused now and was not, or for another reason.
func (d *differ) refused() {
	before, now := d.before.Refused, d.now.Refused
	if len(now) == 0 || len(before) == len(now) && &before[0] == &now[0] {
		return
	}
	type closing struct {
		mapping, reason string
		gateway.Frontend
	}
	closed := make(map[closing]bool, len(d.closed))
	for i := range d.closed {
		closed[closing{d.closed[i].Mapping, d.closed[i].Reason, d.closed[i].Frontend}] = true
	}
	for was, is := range delta.Join(before, now, finding.Refused.Compare) {
		if is == nil || was != nil && was.Reason == is.Reason || closed[closing{is.Owner, is.Reason, is.Frontend}] {
			continue
		}
		d.refusals = append(d.refusals, Record{Result: Refused, Reason: is.Reason, Mapping: is.Owner, Frontend: is.Frontend, Writer: d.writer(is.Owner)})
	}
}

// writer returns who wrote the spec of a Mapping, or its last known one if it is gone.
func (d *differ) writer(owner string) Writer {
	m := mappingOf(d.now, owner)
	if m == nil {
		m = mappingOf(d.before, owner)
	}
	if m == nil {
		return Writer{}
	}
	managed := kinds.SpecWriter(m.ManagedFields)
	if len(managed) == 0 {
		return Writer{}
	}
	w := Writer{Manager: managed[0].Manager, Operation: string(managed[0].Operation)}
	if t := managed[0].Time; t != nil {
		w.Time = t.Time
	}
	return w
}

func mappingOf(r *finding.Report, owner string) *v1alpha1.Mapping {
	namespace, name, _ := strings.Cut(owner, "/")
	i, found := objects.Find(r.Snapshot.Mappings, namespace, name)
	if !found {
		return nil
	}
	return r.Snapshot.Mappings[i]
}

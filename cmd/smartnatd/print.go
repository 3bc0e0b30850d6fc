// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/pkg/printer"
)

// printed bounds the items of a list in a table.
const printed = 3

// printAnswer writes the sentence, then the steps.
func printAnswer(w io.Writer, a explain.Answer, rules bool) error {
	text := a.Sentence + "\n"
	if a.Advice != "" {
		text += a.Advice + "\n"
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		return err
	}
	var rows [][]string
	for _, s := range a.Steps {
		rows = append(rows, []string{"  " + s.Name, s.Text})
	}
	connections := "none"
	for i, c := range a.Connections {
		if i == 0 {
			connections = fmt.Sprintf("%d now", len(a.Connections))
		}
		if i < printed {
			connections += fmt.Sprintf("; %s -> %s", c.Client, c.Backend)
		}
	}
	rows = append(rows, []string{"  connections", connections})
	if rules {
		for i, rule := range a.Rules {
			name := ""
			if i == 0 {
				name = "rules"
			}
			rows = append(rows, []string{"  " + name, rule})
		}
	}
	return printer.WriteRows(w, rows)
}

// printStatus writes the gateway, its uplinks, and one line for each Mapping.
func printStatus(w io.Writer, s operator.Status, now time.Time) error {
	head := [][]string{{"gateway", fmt.Sprintf("%s, smartnatd %s, %s", s.Instance, s.Version, s.State)}, {"source", sourceText(s.Source)}}
	for _, missing := range s.Missing {
		head = append(head, []string{"missing", missing})
	}
	if !s.Source.CredentialEnds.IsZero() {
		head = append(head, []string{"credential", endText(s.Source.CredentialEnds, now)})
	}
	if s.Pair != nil {
		head = append(head, pairRows(*s.Pair, now)...)
	}
	if s.Announced != nil {
		head = append(head, announcedRows(*s.Announced)...)
	}
	for _, f := range s.Findings {
		head = append(head, []string{"finding", f.Field + ": " + f.Message + " (" + f.Reason + ")"})
	}
	if err := printer.WriteRows(w, head); err != nil {
		return err
	}
	if err := printServers(w, s.Source.Servers); err != nil {
		return err
	}
	uplinks := [][]string{{"\nUPLINK", "NUMBER", "UP", "ADDRESSES", "NEXT HOPS"}}
	for _, u := range s.Uplinks {
		uplinks = append(uplinks, []string{u.Link, fmt.Sprint(u.Number), yesNo(u.Up), some(texts(u.Addresses)), some(texts(u.Gateways))})
	}
	if err := printer.WriteRows(w, uplinks); err != nil {
		return err
	}
	mappings := [][]string{{"\nMAPPING", "READY", "SERVICE", "EXTERNAL", "OPEN", "CONNECTIONS", "IN", "OUT", "REFUSED", "CHANGED", "WHY"}}
	for _, m := range s.Mappings {
		ready := yesNo(m.Ready)
		if m.Elsewhere {
			ready = "elsewhere"
		}
		why := ""
		if len(m.Findings) > 0 {
			why = m.Findings[0].Field + ": " + m.Findings[0].Message
			if more := len(m.Findings) - 1; more > 0 {
				why += fmt.Sprintf(" (and %d more)", more)
			}
		}
		carried := trafficCells(m.Traffic)
		mappings = append(mappings, []string{m.Namespace + "/" + m.Name, ready, m.Service, some(m.Frontends), carried[0], carried[1], carried[2], carried[3], carried[4], changedCell(m.LastChange, now), why})
	}
	return printer.WriteRows(w, mappings)
}

// printServers writes one line for each server of a relay.
func printServers(w io.Writer, servers []operator.RelayServer) error {
	if len(servers) == 0 {
		return nil
	}
	rows := [][]string{{"\nRELAY SERVER", "IN USE", "FAILURES"}}
	for _, s := range servers {
		rows = append(rows, []string{s.Name, yesNo(s.InUse), strconv.FormatInt(s.Failures, 10)})
	}
	return printer.WriteRows(w, rows)
}

// endText says when a credential ends or ended.
func endText(at, now time.Time) string {
	text := at.UTC().Format(time.RFC3339)
	if !at.After(now) {
		return "ended " + text + ", " + duration.HumanDuration(now.Sub(at)) + " ago: run kubectl smartnat enroll again"
	}
	return "ends " + text + ", in " + duration.HumanDuration(at.Sub(now))
}

// changedCell says how long ago a change was. Without one since the start of smartnatd, it is "-".
func changedCell(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return duration.HumanDuration(now.Sub(at)) + " ago"
}

// trafficCells returns open connections, all connections, bytes from and to clients, and refused packets.
func trafficCells(t *operator.Traffic) [5]string {
	if t == nil {
		return [5]string{"-", "-", "-", "-", "-"}
	}
	refused := "-"
	if t.Dropped != nil && t.Rejected != nil {
		refused = strconv.FormatUint(*t.Dropped+*t.Rejected, 10)
	}
	return [5]string{
		strconv.Itoa(t.Open), strconv.FormatUint(t.Connections, 10), humanize.IBytes(t.BytesFromClients), humanize.IBytes(t.BytesToClients), refused,
	}
}

func sourceText(s operator.Source) string {
	switch {
	case s.Problem != "":
		return s.Origin + ", " + s.Problem
	case s.Connected:
		return s.Origin + ", connected"
	}
	return s.Origin
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func texts(addresses []netip.Addr) []string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

// some joins the first items, or returns "-".
func some(items []string) string {
	if len(items) == 0 {
		return "-"
	}
	text := strings.Join(items[:min(printed, len(items))], ", ")
	if more := len(items) - printed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

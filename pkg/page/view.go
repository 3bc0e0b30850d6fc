// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/operator"
)

// The limits of a view, whatever the number of ports.
const (
	rowsPerPage  = 50
	maxFrontends = 4
	maxFindings  = 5
	maxSearch    = 200
)

// Values of the parameters show and sort.
const (
	showAll, showProblems, showElsewhere = "all", "problems", "elsewhere"
	sortName, sortOpen, sortBytes        = "name", "open", "bytes"
)

// query selects Mappings.
type query struct {
	// search is in lower case; a Mapping must contain all of its words.
	search     []string
	show, sort string
	// page begins at 1.
	page int
}

// parseQuery returns an error that says what is right.
func parseQuery(values url.Values) (query, error) {
	search := values.Get("search")
	q := query{
		search: strings.Fields(strings.ToLower(search)), page: 1,
		show: cmp.Or(values.Get("show"), showAll), sort: cmp.Or(values.Get("sort"), sortName),
	}
	if len(search) > maxSearch {
		return q, fmt.Errorf("search: want at most %d bytes", maxSearch)
	}
	if !slices.Contains([]string{showAll, showProblems, showElsewhere}, q.show) {
		return q, fmt.Errorf("show %q: want %s, %s or %s", q.show, showAll, showProblems, showElsewhere)
	}
	if !slices.Contains([]string{sortName, sortOpen, sortBytes}, q.sort) {
		return q, fmt.Errorf("sort %q: want %s, %s or %s", q.sort, sortName, sortOpen, sortBytes)
	}
	if text := values.Get("page"); text != "" {
		page, err := strconv.ParseUint(text, 10, 31)
		if err != nil || page == 0 {
			return q, fmt.Errorf("page %q: want a number from 1", text)
		}
		q.page = int(page)
	}
	return q, nil
}

// view is what the page shows at a time. Its size does not depend on the number of ports.
type view struct {
	// Status has only the Mappings of this page, each with its first frontends and findings.
	operator.Status
	// Time is when the status was read.
	Time   time.Time `json:"time"`
	Counts counts    `json:"counts"`
	// Found is the number of Mappings that the query selects, on Pages pages, of which this is number Page.
	Found int `json:"found"`
	Page  int `json:"page"`
	Pages int `json:"pages"`
	// Mappings are the rows of this page.
	Mappings []row `json:"mappings"`
}

type counts struct {
	All      int `json:"all"`
	Ready    int `json:"ready"`
	Problems int `json:"problems"`
	// Elsewhere are those for another gateway.
	Elsewhere int `json:"elsewhere"`
}

// row is a Mapping.
type row struct {
	operator.Mapping
	// MoreFrontends and MoreFindings are the numbers of those that are left out.
	MoreFrontends int `json:"moreFrontends,omitempty"`
	MoreFindings  int `json:"moreFindings,omitempty"`
}

// newView selects what to show. A page after the last one is the last one.
func newView(status operator.Status, q query, at time.Time) view {
	v := view{Status: status, Time: at, Mappings: []row{}}
	v.Status.Mappings = nil
	var found []*operator.Mapping
	for i := range status.Mappings {
		m := &status.Mappings[i]
		v.Counts.add(m)
		if q.shows(m) && q.finds(m) {
			found = append(found, m)
		}
	}
	slices.SortStableFunc(found, q.compare)
	v.Found, v.Pages = len(found), max(1, (len(found)+rowsPerPage-1)/rowsPerPage)
	v.Page = min(q.page, v.Pages)
	first := (v.Page - 1) * rowsPerPage
	for _, m := range found[first:min(first+rowsPerPage, len(found))] {
		v.Mappings = append(v.Mappings, newRow(*m))
	}
	return v
}

func newRow(m operator.Mapping) row {
	r := row{Mapping: m, MoreFrontends: max(0, len(m.Frontends)-maxFrontends), MoreFindings: max(0, len(m.Findings)-maxFindings)}
	r.Frontends, r.Findings = m.Frontends[:min(maxFrontends, len(m.Frontends))], m.Findings[:min(maxFindings, len(m.Findings))]
	return r
}

func (c *counts) add(m *operator.Mapping) {
	c.All++
	switch {
	case m.Elsewhere:
		c.Elsewhere++
	case m.Ready:
		c.Ready++
	default:
		c.Problems++
	}
}

func (q query) shows(m *operator.Mapping) bool {
	switch q.show {
	case showProblems:
		return !m.Ready && !m.Elsewhere
	case showElsewhere:
		return m.Elsewhere
	}
	return true
}

// finds reports whether each word is in the name, the Service, a frontend or a finding.
func (q query) finds(m *operator.Mapping) bool {
	for _, word := range q.search {
		in := func(text string) bool { return strings.Contains(strings.ToLower(text), word) }
		if !in(m.Namespace+"/"+m.Name) && !in(m.Service) && !slices.ContainsFunc(m.Frontends, in) &&
			!slices.ContainsFunc(m.Findings, func(f operator.Finding) bool { return in(f.Reason) || in(f.Message) }) {
			return false
		}
	}
	return true
}

// compare keeps the order of names unless the query wants the busiest first.
func (q query) compare(a, b *operator.Mapping) int {
	var x, y operator.Traffic
	if a.Traffic != nil {
		x = *a.Traffic
	}
	if b.Traffic != nil {
		y = *b.Traffic
	}
	switch q.sort {
	case sortOpen:
		return cmp.Compare(y.Open, x.Open)
	case sortBytes:
		return cmp.Compare(y.BytesFromClients+y.BytesToClients, x.BytesFromClients+x.BytesToClients)
	}
	return 0
}

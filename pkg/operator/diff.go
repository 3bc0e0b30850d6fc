// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/plan"
)

// maxDocuments bounds the documents of a question, in bytes of JSON. A Mapping with 100 ports takes some 5 KB.
const maxDocuments = 16 << 20

// diff compares the kernel with what is desired, or with what would be after the documents in the body were applied.
func (s *Server) diff(w http.ResponseWriter, r *http.Request) {
	report, ok := s.report(w)
	if !ok {
		return
	}
	var answer plan.Diff
	state := report.State
	if r.Method == http.MethodPost {
		var documents objects.Snapshot
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxDocuments)).Decode(&documents); err != nil {
			if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
				err = fmt.Errorf("they take more than %d MiB", maxDocuments>>20)
			}
			http.Error(w, "reading the documents: "+err.Error(), http.StatusBadRequest)
			return
		}
		if slices.Contains(documents.Mappings, nil) || slices.Contains(documents.Services, nil) || slices.Contains(documents.EndpointSlices, nil) {
			http.Error(w, "reading the documents: one is null", http.StatusBadRequest)
			return
		}
		var err error
		if state, answer.Mappings, err = plan.Preview(*report, s.Daemon.Config(), documents, time.Now()); err != nil {
			http.Error(w, oneLine(err), http.StatusBadRequest)
			return
		}
	}
	planned, err := s.Daemon.Plan(r.Context(), state)
	if err != nil {
		http.Error(w, "comparing with the kernel: "+oneLine(err), http.StatusInternalServerError)
		return
	}
	answer.Total = planned.Total
	for _, d := range planned.Differences {
		answer.Kernel = append(answer.Kernel, difference(d, state, report.State))
	}
	plan.Sort(answer.Kernel)
	s.write(w, answer)
}

// difference finds the Mapping of a Difference by its Frontend, in the first State that has it.
func difference(d dataplane.Difference, states ...gateway.State) plan.Difference {
	found := plan.Difference{
		Mapping: d.Owner, Missing: d.Missing, Kind: string(d.Kind), Family: int(d.Family), Place: d.Place, Text: d.Text,
	}
	for _, state := range states {
		if found.Mapping != "" || !d.Frontend.Address.IsValid() {
			break
		}
		if f := gateway.FindForward(state.Forwards, d.Frontend.Protocol, netip.AddrPortFrom(d.Frontend.Address, d.Frontend.Ports.First)); f != nil {
			found.Mapping = f.Owner
		}
	}
	return found
}

// oneLine spells errors that were joined.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

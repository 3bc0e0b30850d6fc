// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/operator"
)

// TestRepeat expects that a watch goes on until it is interrupted, and ends with the error of an answer.
func TestRepeat(t *testing.T) {
	gone := errors.New("no smartnatd runs")
	for _, tc := range []struct {
		name string
		// waits is the number of waits before an interrupt, fails that of the answer that fails.
		waits, fails int
		shown        int
		want         error
	}{
		{"interrupted at once", 0, 0, 1, nil},
		{"interrupted later", 3, 0, 4, nil},
		{"smartnatd is not there", 9, 1, 1, gone},
		{"smartnatd stops", 9, 4, 4, gone},
	} {
		shown, waited := 0, 0
		err := repeat(func() error {
			if shown++; shown == tc.fails {
				return gone
			}
			return nil
		}, func() bool { waited++; return waited <= tc.waits })
		if shown != tc.shown || !errors.Is(err, tc.want) {
			t.Errorf("%s: %d answers, %v; want %d, %v", tc.name, shown, err, tc.shown, tc.want)
		}
	}
}

func TestPrintStatusSaysWhenAMappingChanged(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var text strings.Builder
	status := operator.Status{Mappings: []operator.Mapping{{Namespace: "a", Name: "web", LastChange: now.Add(-90 * time.Second)}, {Namespace: "a", Name: "dns"}}}
	if err := printStatus(&text, status, now); err != nil {
		t.Fatal(err)
	}
	for mapping, want := range map[string]string{"a/web": " 90s ago", "a/dns": " -"} {
		if n := linesWith(text.String(), mapping); n != 1 || !strings.Contains(text.String(), want) {
			t.Errorf("%s: want %q in\n%s", mapping, want, text.String())
		}
	}
}

func TestPrintStatusOfASource(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name       string
		source     operator.Source
		want, lack []string
	}{
		{"files", operator.Source{Origin: "files /etc/objects", Connected: true},
			[]string{"source   files /etc/objects, connected\n"}, []string{"credential", "RELAY SERVER"}},
		{"a relay with two servers", operator.Source{
			Origin: "relay https://a:8443, https://b:8443", Connected: true, CredentialEnds: now.Add(30 * 24 * time.Hour),
			Servers: []operator.RelayServer{{Name: "a:8443", Failures: 3}, {Name: "b:8443", InUse: true}},
		}, []string{
			"credential  ends 2026-02-01T03:04:05Z, in 30d\n",
			"\nRELAY SERVER  IN USE  FAILURES\na:8443        no      3\nb:8443        yes     0\n",
		}, nil},
		{"a credential that has ended", operator.Source{Origin: "relay https://a:8443", Problem: "lost", CredentialEnds: now.Add(-time.Hour)},
			[]string{"credential  ended 2026-01-02T02:04:05Z, 60m ago: run kubectl smartnat enroll again\n"}, nil},
	} {
		var text strings.Builder
		if err := printStatus(&text, operator.Status{Source: tc.source}, now); err != nil {
			t.Fatal(err)
		}
		for _, want := range tc.want {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: no %q in\n%s", tc.name, want, text.String())
			}
		}
		for _, lack := range tc.lack {
			if strings.Contains(text.String(), lack) {
				t.Errorf("%s: %q in\n%s", tc.name, lack, text.String())
			}
		}
	}
}

func TestAnswersForPrograms(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer any
		want   string
	}{
		{"check", newCheckAnswer(check.Report{Warnings: 1, Failures: 2, Lines: []check.Line{{Level: check.OK, What: "config"}, {Level: check.Failed, What: "rules", Text: "no"}}}),
			`{"warnings":1,"failures":2,"lines":[{"level":"ok","subject":"config"},{"level":"failed","subject":"rules","text":"no"}]}`},
		{"check of nothing", newCheckAnswer(check.Report{}), `{"warnings":0,"failures":0,"lines":[]}`},
		{"cleanup", newCleanupAnswer(dataplane.Result{Changes: dataplane.Changes{Chains: 1, Rules: 2, Sets: 3}, Connections: 4, Sysctls: []string{"net/ipv4/ip_forward"}}),
			`{"chains":1,"rules":2,"sets":3,"routes":0,"ipRules":0,"connections":4,"sysctls":["net/ipv4/ip_forward"]}`},
		{"cleanup of nothing", newCleanupAnswer(dataplane.Result{}), `{"chains":0,"rules":0,"sets":0,"routes":0,"ipRules":0,"connections":0,"sysctls":[]}`},
	} {
		text, err := json.Marshal(tc.answer)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, string(text)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

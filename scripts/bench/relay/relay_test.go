// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

func TestMark(t *testing.T) {
	for _, write := range []int{0, 7, 99, 100, 4321, marks - 1} {
		if got, ok := markOf([]byte(`{"addresses":["` + mark(write) + `"],"conditions":{}}`)); !ok || got != write {
			t.Errorf("write %d parses as %d, %v", write, got, ok)
		}
	}
	for name, frame := range map[string]string{
		"none": `{"addresses":["10.200.10.10"]}`, "cut short": "10.199.100", "not an address": "10.199.1x0.100", "another": "10.199.1001100",
	} {
		if got, ok := markOf([]byte(frame)); ok {
			t.Errorf("%s parses as %d, want none", name, got)
		}
	}
}

func TestSplitProtobuf(t *testing.T) {
	for _, test := range []struct {
		name, stream string
		want         []string
		err          error
	}{
		{name: "nothing"},
		{name: "two frames with an empty one between them", stream: "\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x01c", want: []string{"ab", "", "c"}},
		{name: "a truncated frame", stream: "\x00\x00\x00\x02ab\x00\x00\x00\x03c", want: []string{"ab"}, err: io.ErrUnexpectedEOF},
		{name: "a truncated length", stream: "\x00\x00", err: io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			scanner := bufio.NewScanner(strings.NewReader(test.stream))
			scanner.Split(splitProtobuf)
			var got []string
			for scanner.Scan() {
				got = append(got, scanner.Text())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("frames (-want +got):\n%s", diff)
			}
			if !errors.Is(scanner.Err(), test.err) {
				t.Errorf("error %v, want %v", scanner.Err(), test.err)
			}
		})
	}
}

// TestMappingsAreValid: the Mappings are valid and map no port twice, so a gateway would program all of them.
func TestMappingsAreValid(t *testing.T) {
	for _, p := range []plan{full(), quick(), smoke()} {
		w, ports := &world{plan: p}, map[int32]bool{}
		for i := range p.Mapped {
			m := w.mappedObject(i).mapping()
			v1alpha1.SetDefaults(m)
			if errs := validation.ValidateMapping(m); len(errs) > 0 {
				t.Fatalf("%s: %v", m.Name, errs)
			}
			ports[m.Spec.Ports[0].Port] = true
			if other := w.otherObject(i); w.mapped(other) || int(other) >= p.Services {
				t.Errorf("%s is returned as not mapped", other.name())
			}
		}
		if len(ports) != p.Mapped {
			t.Errorf("%d ports for %d Mappings", len(ports), p.Mapped)
		}
		mapped := 0
		for o := range object(p.Services) {
			if w.mapped(o) {
				mapped++
			}
		}
		if mapped != p.Mapped || p.Writes+p.Writes+p.Churn > marks {
			t.Errorf("%d Services mapped, want %d", mapped, p.Mapped)
		}
	}
}

func TestSummaries(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	writes := []write{{sent: at, answered: at.Add(2 * time.Millisecond)}, {sent: at, answered: at.Add(4 * time.Millisecond)}}
	got := Watched{}
	got.summarize(writes, [][]float64{{1, 5}, {3}}, 4)
	want := Watched{Written: []float64{2, 4}, Median: 3, P99: 4.96, Last: 5, Slowest: 4, Missing: 1}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var s Storm
	s.summarize(at, []time.Time{at.Add(3 * time.Second), at.Add(time.Second), at.Add(2 * time.Second)})
	if s.Median != 2 || s.Last != 3 {
		t.Errorf("got %+v", s)
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []float64
		q      float64
		want   float64
	}{
		{"nothing", nil, 0.5, math.NaN()},
		{"one", []float64{7}, 0.25, 7},
		{"odd, unsorted", []float64{3, 1, 2}, 0.5, 2},
		{"even", []float64{4, 1, 3, 2}, 0.5, 2.5},
		{"a quarter", []float64{10, 20, 30, 40, 50}, 0.25, 20},
		{"between", []float64{0, 10}, 0.75, 7.5},
		{"the last", []float64{1, 2, 3}, 1, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := append([]float64(nil), test.values...)
			if got := Quantile(test.values, test.q); !cmp.Equal(got, test.want, cmpopts.EquateNaNs()) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if diff := cmp.Diff(before, test.values); diff != "" {
				t.Errorf("Quantile changed its argument:\n%s", diff)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	// The machine is half as fast at the end as at the beginning, and the gateway always costs a tenth.
	s := Series{
		Plain:   []float64{1000, 1000, 600, 500},
		Tracked: []float64{900, 900, 540, 450},
		Mapped:  []float64{900, 720, 495},
	}
	want := Summary{Plain: 800, Tracked: 720, Mapped: 720, ToPlain: Spread{0.9, 0.9, 0.9}, ToTracked: Spread{1, 1, 1}}
	if diff := cmp.Diff(want, s.Summary(), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Error(diff)
	}
	// One operation takes 1,250 µs, and a ninth more with the gateway.
	if got := s.Summary().More(); math.Abs(got-1250.0/9) > 1e-6 {
		t.Errorf("%v µs more, want %v", got, 1250.0/9)
	}
}

func TestNumber(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 1: "1", 9.87: "9.9", 42: "42", 99.96: "100.0", 100.4: "100", 999: "999", 1000: "1,000", 10000: "10,000", 1234567.8: "1,234,568", math.NaN(): "-",
	} {
		if got := Number(value); got != want {
			t.Errorf("Number(%v) = %q, want %q", value, got, want)
		}
	}
}

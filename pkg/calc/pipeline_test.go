// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/objects"
)

// pipeline has all pure steps from objects to the text for iptables-restore.
type pipeline struct {
	calculator *calc.Calculator
	builders   []*rules.Builder
	have       [2]ruleset.Ruleset
	text       []byte
}

func newPipeline() *pipeline {
	cfg := config.Default()
	cfg.AnyAddress = true
	opts := rules.Options{Ownership: cfg.Ownership, RandomFully: true, Sets: true}
	return &pipeline{calculator: calc.NewCalculator(cfg), builders: []*rules.Builder{
		rules.NewBuilder(gateway.IPv4, opts), rules.NewBuilder(gateway.IPv6, opts),
	}}
}

// run returns the text for both families, valid until the next run.
func (p *pipeline) run(snapshot objects.Snapshot) []byte {
	state, _ := p.calculator.Calculate(snapshot, gateway.Host{})
	p.text = p.text[:0]
	for i, builder := range p.builders {
		want := builder.Build(state)
		p.text, _ = ruleset.Diff(p.have[i], want, "SMARTNAT-").AppendText(p.text)
		p.have[i] = want
	}
	return p.text
}

// BenchmarkOneChange measures one changed object from objects to text, and back. Each port leads to a different port, so that
// no two share a rule.
func BenchmarkOneChange(b *testing.B) {
	for _, change := range []struct {
		name string
		make func(objects.Snapshot) objects.Snapshot
	}{
		{"endpoint", lessOneEndpoint},
		{"source", func(s objects.Snapshot) objects.Snapshot {
			s.Mappings = slices.Clone(s.Mappings)
			m := s.Mappings[len(s.Mappings)/2].DeepCopy()
			m.Spec.AllowedSources = []string{"10.0.0.0/8"}
			s.Mappings[len(s.Mappings)/2] = m
			return s
		}},
		{"mapping", func(s objects.Snapshot) objects.Snapshot {
			s.Mappings = slices.Delete(slices.Clone(s.Mappings), len(s.Mappings)/2, len(s.Mappings)/2+1)
			return s
		}},
	} {
		for _, ports := range []int{10, 1000, 10000, 30000, 100000} {
			b.Run(fmt.Sprintf("%s/ports=%d", change.name, ports), func(b *testing.B) {
				snapshot := scattered(ports)
				snapshots := [2]objects.Snapshot{snapshot, change.make(snapshot)}
				p := newPipeline()
				p.run(snapshot)
				b.ReportAllocs()
				for i := 1; b.Loop(); i++ {
					if len(p.run(snapshots[i%2])) == 0 {
						b.Fatal("nothing to write")
					}
				}
				b.ReportMetric(float64(len(p.text)), "text-B")
			})
		}
	}
}

// BenchmarkFirst measures the first calculation of everything, and the memory that it retains.
func BenchmarkFirst(b *testing.B) {
	for _, ports := range []int{1000, 10000, 30000, 100000} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			snapshot := scattered(ports)
			before := heap()
			var p *pipeline
			b.ReportAllocs()
			for b.Loop() {
				p = newPipeline()
				p.run(snapshot)
			}
			p.text = nil
			b.ReportMetric(float64(heap()-before)/1e6, "held-MB")
			runtime.KeepAlive(p)
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// scattered leads ten ports each to ports of the pods that are not adjacent.
func scattered(ports int) objects.Snapshot {
	snapshot := bigSnapshot(ports/10, 10, v1alpha1.ModeEndpoints)
	for _, s := range snapshot.EndpointSlices {
		for i := range s.Ports {
			*s.Ports[i].Port = int32(8000 + 7*i%10)
		}
	}
	return snapshot
}

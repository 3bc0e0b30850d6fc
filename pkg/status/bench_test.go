// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// BenchmarkDigest measures the cost of the status for a gateway, at most once a second during changes: a thousand Mappings of
// ten ports, none of them changed.
func BenchmarkDigest(b *testing.B) {
	many := map[string][]string{}
	for i := range 1000 {
		many[fmt.Sprint("m", i)] = []string{"192.0.2.1"}
	}
	f := facts(many)
	for i := range 10000 {
		f.State.Forwards = append(f.State.Forwards, &gateway.Forward{Owner: fmt.Sprint("shop/m", i/10), Direct: true, Backends: make([]gateway.Backend, 3)})
	}
	r := New(Options{Instance: "gw1"})
	r.have, r.known = entries("gw1", nil, f), true
	b.ReportAllocs()
	for b.Loop() {
		r.Report(f)
		if !r.digest(time.Now()) || r.queue.Len() != 1 {
			b.Fatal("something changed")
		}
	}
}

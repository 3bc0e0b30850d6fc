// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// BenchmarkFollow measures one changed Mapping among many with ten ports.
func BenchmarkFollow(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			v := &view{}
			var entries []*watchcache.Entry
			for i := range n {
				m := mapping(fmt.Sprint("m", i), i)
				m.UID = types.UID(m.Name)
				m.Spec.Addresses = []string{fmt.Sprintf("192.0.2.%d", 1+i/5000)}
				for p := range 10 {
					m.Spec.Ports = append(m.Spec.Ports, mapping("", 0, int32(1+(i%5000)*10+p)).Spec.Ports...)
				}
				entries = append(entries, &watchcache.Entry{Object: m})
			}
			v.replace(entries)
			changed := mapping("m7", 7, 60001)
			b.ReportAllocs()
			for b.Loop() {
				changed.Generation++
				again := *changed
				if got := v.follow([]watchcache.Event{{Type: watch.Modified, Object: &watchcache.Entry{Object: &again}}}); got.Len() != 1 {
					b.Fatalf("%d Mappings are looked at, want 1", got.Len())
				}
			}
		})
	}
}

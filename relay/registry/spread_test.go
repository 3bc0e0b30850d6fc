// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchesEndSpreadOverTime proves that watches end evenly over the spread, because clients that move to the other
// replica at once would list there at once. The test runs in a bubble of synctest, so times are exact.
func TestWatchesEndSpreadOverTime(t *testing.T) {
	const watches, spread = 200, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		api, err := New(populated(t), stopping)
		if err != nil {
			t.Fatal(err)
		}
		api.Spread = spread
		var mu sync.Mutex
		var ends []time.Time
		for range watches {
			go func() {
				w := &watchWriter{header: http.Header{}}
				withRequestInfo(api).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/services?watch=1&allowWatchBookmarks=true", nil))
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, time.Now())
				if lines := strings.Split(strings.TrimSpace(w.String()), "\n"); len(lines) != 4 || !strings.Contains(lines[3], "BOOKMARK") {
					t.Errorf("%d events: %s", len(lines), w.String())
				}
			}()
		}
		time.Sleep(time.Minute / 2)
		if len(ends) > 0 {
			t.Fatalf("%d watches ended before shutdown", len(ends))
		}
		start := time.Now()
		close(stopping)
		time.Sleep(spread)
		synctest.Wait()
		var quarters [4]int
		for _, end := range ends {
			quarters[end.Sub(start)*4/spread]++
		}
		for i, n := range quarters {
			if n < watches/8 || n > watches/2 {
				t.Errorf("%d of %d watches ended in quarter %d of the spread: %v", n, watches, i+1, quarters)
			}
		}
		if len(ends) != watches {
			t.Errorf("%d of %d watches ended", len(ends), watches)
		}
	})
}

// watchWriter accepts everything that a watch writes.
type watchWriter struct {
	bytes.Buffer
	header http.Header
}

func (w *watchWriter) Header() http.Header              { return w.header }
func (w *watchWriter) WriteHeader(int)                  {}
func (w *watchWriter) FlushError() error                { return nil }
func (w *watchWriter) SetWriteDeadline(time.Time) error { return nil }

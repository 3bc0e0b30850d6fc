// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// unready is a certificate that no client accepts yet.
type unready struct{ followed[tls.Certificate] }

func (*unready) ready() bool { return false }

func TestReadiness(t *testing.T) {
	stopped := make(chan struct{})
	close(stopped)
	for _, tc := range []struct {
		name     string
		change   func(*Config)
		stopping chan struct{}
		want     int
		text     string
	}{
		{"ready", func(*Config) {}, nil, http.StatusOK, "ok"},
		{"without objects", func(c *Config) { c.Cache = watchcache.New(watchcache.NewEpoch(), 4) }, nil, http.StatusServiceUnavailable, "not synced with the cluster\n"},
		{"without a certificate", func(c *Config) { c.ServingCert = &unready{} }, nil, http.StatusServiceUnavailable, "no serving certificate\n"},
		{"stopping", func(*Config) {}, stopped, http.StatusServiceUnavailable, "shutting down\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := fuzzedConfig(t)
			tc.change(config)
			w := httptest.NewRecorder()
			newHandler(config, http.NotFoundHandler(), tc.stopping).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			if w.Code != tc.want || w.Body.String() != tc.text {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, tc.want, tc.text)
			}
		})
	}
}

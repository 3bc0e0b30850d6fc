// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/watchcache"
)

const secret = "do-not-tell"

// FuzzRequest sends raw requests with and without credentials. No request may cause a panic, reveal data to an
// unauthorized client, write anything, or reveal data that must not leave the cluster.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET " + mappingsPath + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/v1/services?watch=1&resourceVersion=0&timeoutSeconds=1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/v1/watch/namespaces/shop/services/hidden HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/v1/services?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/v1/services?labelSelector=a%20in%20(b)&fieldSelector=metadata.name%3Dx&limit=1&continue=x HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/v1/namespaces/shop/services/hidden/proxy/x HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /api/v1/namespaces/shop/secrets/s HTTP/1.1\r\nHost: x\r\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n\r\n",
		"GET /api/v1/services HTTP/1.1\r\nHost: x\r\nAccept: application/vnd.kubernetes.protobuf;stream=watch\r\nAccept-Encoding: gzip\r\n\r\n",
		"GET /api/../metrics HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /apis//discovery.k8s.io/v1/%2e%2e/endpointslices;x HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /openapi/v3 HTTP/1.1\r\nHost: x\r\nImpersonate-User: admin\r\nX-Remote-User: admin\r\n\r\n",
		"PATCH /apis/smartnat.aureacentral.com/v1alpha1/namespaces/shop/mappings/web/status HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"POST /api/v1/namespaces/shop/services HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	config := fuzzedConfig(f)
	api, err := registry.New(config.Cache, nil)
	if err != nil {
		f.Fatal(err)
	}
	var panicked atomic.Bool
	watched := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		finished := false
		defer func() { panicked.CompareAndSwap(false, !finished) }()
		api.ServeHTTP(w, req)
		finished = true
	})
	handler := newHandler(config, watched, nil)
	// The context is canceled, so every watch ends at once.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, token := range []string{"", strangerToken, gatewayToken} {
			req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				return
			}
			req = req.WithContext(ctx)
			req.Header.Del("Authorization")
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			probe := strings.HasSuffix(req.URL.Path, "z")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			switch {
			case w.Code >= 500:
				t.Errorf("%q by %q: %d %s", raw, token, w.Code, w.Body)
			case w.Code < 400 && !probe && token != gatewayToken:
				t.Errorf("%q by %q: %d %s", raw, token, w.Code, w.Body)
			case w.Code < 400 && !probe && req.Method != http.MethodGet:
				t.Errorf("%q wrote: %d %s", raw, w.Code, w.Body)
			case strings.Contains(w.Body.String(), secret):
				t.Errorf("%q by %q reveals: %s", raw, token, w.Body)
			}
		}
		if panicked.Load() {
			t.Errorf("%q made the relay panic", raw)
		}
	})
}

func fuzzedConfig(f testing.TB) *Config {
	f.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	config := &Config{
		Authenticator: authenticator.RequestFunc(fakeAuthentication), Authorizer: authorizer.AuthorizerFunc(fakeAuthorization),
		Cache: watchcache.New(watchcache.NewEpoch(), 4), Log: log, Limits: DefaultLimits(), ServingCert: &followed[tls.Certificate]{},
	}
	config.Limits.RequestsPerSecond = 0 // the fuzzer is a single user
	mapping, service, hidden := newMapping("shop", "web", "mapped"), newService("shop", "mapped"), newService("shop", "hidden")
	mapping.Annotations = map[string]string{"note": secret}
	service.Annotations = map[string]string{"note": secret}
	hidden.Labels = map[string]string{"note": secret}
	var errs []error
	errs = append(errs, config.Cache.Mappings().Store().Replace([]any{mapping}, ""),
		config.Cache.Services().Store().Replace([]any{service, hidden}, ""),
		config.Cache.EndpointSlices().Store().Replace([]any{newSlice("shop", "mapped-1", "mapped")}, ""),
		config.Cache.PortGrants().Store().Replace(nil, ""),
		config.Cache.Namespaces().Store().Replace([]any{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "hidden", Labels: map[string]string{"note": secret}}}}, ""))
	for _, err := range errs {
		if err != nil {
			f.Fatal(err)
		}
	}
	return config
}

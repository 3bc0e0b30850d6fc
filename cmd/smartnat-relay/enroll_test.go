// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/pkg/plugin"
)

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(req *http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// enrollmentVia enrolls a gateway by requests that before sees, and fails if it returns an error.
func (p *controlPlane) enrollmentVia(gateway string, before func(request string) error) *plugin.Enrollment {
	p.t.Helper()
	client, err := dynamic.NewForConfig(&rest.Config{Host: clusterURL,
		TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("ca.crt"), CertFile: p.path("admin.crt"), KeyFile: p.path("admin.key")},
		WrapTransport: func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(req *http.Request) (*http.Response, error) {
				if err := before(req.Method + " " + req.URL.Path); err != nil {
					return nil, err
				}
				return next.RoundTrip(req)
			})
		}})
	if err != nil {
		p.t.Fatal(err)
	}
	e := p.enrollment(gateway)
	e.Client, e.Servers, e.ServerName, e.CertificateAuthority = client, []string{relayURL}, "127.0.0.1", p.read("ca.crt")+"\n"
	return e
}

// secretsOf returns the UIDs of the Secrets of a gateway, and the one that its tokens have to be bound to.
func (p *controlPlane) secretsOf(gateway string) (all, enrolled string) {
	p.t.Helper()
	return p.kubectl("--namespace=smartnat", "get", "secrets", "-l", "smartnat.aureacentral.com/gateway="+gateway, "-o", "jsonpath={.items[*].metadata.uid}"),
		p.kubectl("--namespace=smartnat", "get", "serviceaccount", gateway, "-o", `jsonpath={.metadata.annotations.smartnat\.aureacentral\.com/enrollment}`)
}

// testFailedEnrollments enrolls a gateway again, while one of the requests fails. Its token works on until another enrollment is certain.
func testFailedEnrollments(t *testing.T, p *controlPlane) {
	const secrets, account = "/api/v1/namespaces/smartnat/secrets", "/api/v1/namespaces/smartnat/serviceaccounts/edge-5"
	client, fails, interrupted := p.client(""), "", errors.New("interrupted")
	patches := 0
	edge := p.enrollmentVia("edge-5", func(request string) error {
		if request == "PATCH "+account {
			patches++ // the first one is of what enroll would create
		}
		if fails != "" && strings.HasPrefix(request, fails) && (patches > 1 || !strings.HasPrefix(fails, "PATCH")) {
			return interrupted
		}
		return nil
	})
	bundle, err := edge.Enroll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token := bundle.Relay.Token
	p.eventually("the relay to know the gateway", func() bool { return p.ask(client, listPath, token) == http.StatusOK })
	_, enrolled := p.secretsOf("edge-5")
	for _, fails = range []string{"POST " + secrets, "GET " + secrets, "POST " + account + "/token", "PATCH " + account} {
		patches = 0
		if _, err := edge.Enroll(t.Context()); !errors.Is(err, interrupted) {
			t.Errorf("%s: %v, want the error of the request", fails, err)
		}
		if all, is := p.secretsOf("edge-5"); is != enrolled || !strings.Contains(all, enrolled) {
			t.Errorf("after %s failed, the gateway is bound to %s, want %s; the Secrets are %s", fails, is, enrolled, all)
		}
		if _, err := p.renewalOf("edge-5", token); err != nil {
			t.Errorf("after %s failed, the gateway cannot renew its token: %v", fails, err)
		}
	}
	// The new token is in force by then, so the administrator gets it.
	fails = "DELETE " + secrets
	if bundle, err = edge.Enroll(t.Context()); bundle == nil || !errors.Is(err, interrupted) {
		t.Fatalf("%s: the bundle %v, %v; want a bundle, and the error of the request", fails, bundle, err)
	}
	p.eventually("the relay to refuse the earlier token", func() bool { return p.ask(client, listPath, token) == http.StatusUnauthorized })
	p.eventually("the relay to take the new one", func() bool { return p.ask(client, listPath, bundle.Relay.Token) == http.StatusOK })
	fails = ""
	if _, err = edge.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, is := p.secretsOf("edge-5"); all != is {
		t.Errorf("the Secrets %s are left, want only %s", all, is)
	}
}

// testEnrollmentsAtOnce runs a whole enrollment within another one, before each of its requests that write. One of both wins, and its bundle
// works; the other has none.
func testEnrollmentsAtOnce(t *testing.T, p *controlPlane) {
	client := p.client("")
	inner := p.enrollmentVia("edge-6", func(string) error { return nil })
	for _, at := range []string{"secrets", "token", "PATCH", "DELETE"} {
		t.Run(at, func(t *testing.T) {
			if _, err := inner.Enroll(t.Context()); err != nil {
				t.Fatal(err)
			}
			var token string
			patches := 0
			outer := p.enrollmentVia("edge-6", func(request string) error {
				if request == "PATCH /api/v1/namespaces/smartnat/serviceaccounts/edge-6" {
					patches++
				}
				meets := map[string]bool{"secrets": request == "POST /api/v1/namespaces/smartnat/secrets", "token": strings.HasSuffix(request, "/edge-6/token"),
					"PATCH": patches == 2, "DELETE": strings.HasPrefix(request, "DELETE")}
				if token != "" || !meets[at] {
					return nil
				}
				token = "none"
				bundle, err := inner.Enroll(t.Context())
				if err == nil {
					token = bundle.Relay.Token
				}
				return err
			})
			bundle, err := outer.Enroll(t.Context())
			if err == nil || bundle != nil || !strings.Contains(err.Error(), "edge-6 was enrolled or revoked by another command at the same time") {
				t.Errorf("the outer enrollment: a bundle (%t), %v", bundle != nil, err)
			}
			p.eventually("the relay to take the token of the inner one", func() bool { return p.ask(client, listPath, token) == http.StatusOK })
			if all, is := p.secretsOf("edge-6"); !strings.Contains(all, is) {
				t.Errorf("the gateway is bound to %s, and the Secrets are %s", is, all)
			}
		})
	}
	if err := inner.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := p.kubectl("--namespace=smartnat", "get", "secrets", "-l", "smartnat.aureacentral.com/gateway=edge-6", "-o", "name"); out != "" {
		t.Errorf("a revocation leaves %s", out)
	}
}

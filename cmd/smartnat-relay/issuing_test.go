// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/smartnat/smartnat/relay/cluster"
	"github.com/smartnat/smartnat/relay/issuer"
)

const (
	relayName   = "smartnat-relay.smartnat.svc"
	relaySecret = "smartnat-relay-tls"
)

// testIssuing lets relays make their certificate, with the rights of the manifests only.
func testIssuing(t *testing.T, p *controlPlane) {
	kubeconfig := p.tokenKubeconfig("issuer.kubeconfig", p.kubectl("--namespace=smartnat", "create", "token", "smartnat-relay"))
	t.Run("replicas", func(t *testing.T) { testReplicasIssue(t, p, kubeconfig) })
	t.Run("a relay from nothing", func(t *testing.T) { testRelayFromNothing(t, p, kubeconfig) })
}

// replica is a Source with a clock of its own.
type replica struct {
	*issuer.Source
	ahead atomic.Int64
}

func newReplica(t *testing.T, kubeconfig string) *replica {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := cluster.New(config)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{}
	r.Source, err = issuer.New(issuer.Options{
		Secrets: client.Secrets("smartnat"), Secret: relaySecret, Name: relayName, Issue: true,
		Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// syncAll syncs all replicas at once, at that time from now, and returns their common certificate and the reasons of their writes.
func syncAll(t *testing.T, replicas []*replica, ahead time.Duration) (*x509.Certificate, []string) {
	t.Helper()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		reasons []string
	)
	for _, r := range replicas {
		r.ahead.Store(int64(ahead))
		wg.Go(func() {
			reason, err := r.Sync(t.Context())
			if err != nil {
				t.Error(err)
			}
			if reason != "" {
				mu.Lock()
				defer mu.Unlock()
				reasons = append(reasons, reason)
			}
		})
	}
	wg.Wait()
	// A replica that read the Secret before another one wrote it learns of that at its next look.
	for _, r := range replicas {
		if reason, err := r.Sync(t.Context()); err != nil || reason != "" {
			t.Errorf("the second Sync: %q, %v", reason, err)
		}
		if !r.Certificate().Leaf.Equal(replicas[0].Certificate().Leaf) {
			t.Error("two replicas have different certificates")
		}
	}
	return replicas[0].Certificate().Leaf, reasons
}

func testReplicasIssue(t *testing.T, p *controlPlane, kubeconfig string) {
	var replicas []*replica
	for range 8 {
		replicas = append(replicas, newReplica(t, kubeconfig))
	}
	const day = 24 * time.Hour
	seen := map[string]bool{}
	for _, step := range []struct {
		ahead time.Duration
		want  []string
	}{
		{0, []string{issuer.ReasonEmpty}},
		{59 * day, nil},
		{61 * day, []string{issuer.ReasonCertificate}},
		{8 * 365 * day, []string{issuer.ReasonAuthority}},
	} {
		leaf, reasons := syncAll(t, replicas, step.ahead)
		if diff := cmp.Diff(step.want, reasons); diff != "" {
			t.Errorf("writes %s ahead (-want +got)\n%s", step.ahead, diff)
		}
		if serial := leaf.SerialNumber.String(); seen[serial] != (step.want == nil) {
			t.Errorf("%s ahead: the certificate is new: %t", step.ahead, !seen[serial])
		} else {
			seen[serial] = true
		}
	}
	t.Run("applying install.yaml again keeps it", func(t *testing.T) {
		before := p.authorities()
		p.kubectl("apply", "--filename", p.path("install.yaml"))
		p.kubectl("apply", "--server-side", "--force-conflicts", "--filename", p.path("install.yaml"))
		if leaf, reasons := syncAll(t, replicas, 8*365*day); reasons != nil || !seen[leaf.SerialNumber.String()] || p.authorities() != before {
			t.Errorf("the relay wrote the Secret: %q; the authorities changed: %t", reasons, p.authorities() != before)
		}
	})
	if got := strings.Count(p.authorities(), "BEGIN CERTIFICATE"); got != 2 {
		t.Errorf("after the authority was renewed, ca.crt has %d certificates, want the new and the old one", got)
	}

	t.Run("the content of an operator is never written", func(t *testing.T) {
		// As relay/README.md says, and then an upgrade.
		p.write("tls.crt", []byte(p.read("relay.crt")))
		p.write("tls.key", []byte(p.read("relay.key")))
		p.write("mine.yaml", []byte(p.kubectl("--namespace=smartnat", "create", "secret", "generic", relaySecret, "--dry-run=client", "--output=yaml",
			"--from-file="+p.path("tls.crt"), "--from-file="+p.path("tls.key"), "--from-file="+p.path("ca.crt"))))
		p.kubectl("replace", "--filename", p.path("mine.yaml"))
		p.kubectl("apply", "--filename", p.path("install.yaml"))
		version := func() string {
			return p.kubectl("--namespace=smartnat", "get", "secret", relaySecret, "-o", "jsonpath={.metadata.resourceVersion}")
		}
		before := version()
		leaf, reasons := syncAll(t, replicas, 100*365*day)
		if got := version(); got != before || reasons != nil {
			t.Errorf("the Secret has the version %s, had %s; %v", got, before, reasons)
		}
		if leaf.Subject.CommonName != "smartnat-relay" || leaf.Issuer.CommonName != p.ca.cert.Subject.CommonName {
			t.Errorf("the certificate is of %s by %s, want the operator's", leaf.Subject, leaf.Issuer)
		}
	})
	t.Run("content of another program with the annotation of the relay is never written", func(t *testing.T) {
		p.emptySecret()
		syncAll(t, replicas, 0)
		p.kubectl("--namespace=smartnat", "patch", "secret", relaySecret, "--patch", `{"data": {"ca.key": null}}`)
		if _, reasons := syncAll(t, replicas, 100*365*day); reasons != nil {
			t.Errorf("the relay wrote the Secret: %q", reasons)
		}
	})
	t.Run("an absent Secret is an error", func(t *testing.T) {
		p.kubectl("--namespace=smartnat", "delete", "secret", relaySecret)
		if _, err := replicas[0].Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "apply the manifests of the relay again") {
			t.Errorf("Sync: %v", err)
		}
	})
	p.emptySecret()
}

// emptySecret makes the Secret as install.yaml does.
func (p *controlPlane) emptySecret() {
	p.t.Helper()
	p.kubectl("--namespace=smartnat", "delete", "secret", relaySecret, "--ignore-not-found")
	p.kubectl("apply", "--filename", p.path("install.yaml"))
}

// authorities returns what a gateway gets when it is enrolled.
func (p *controlPlane) authorities() string {
	p.t.Helper()
	text, err := base64.StdEncoding.DecodeString(p.kubectl("--namespace=smartnat", "get", "secret", relaySecret, "-o", `jsonpath={.data.ca\.crt}`))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// testRelayFromNothing runs a relay whose Secret is empty.
func testRelayFromNothing(t *testing.T, p *controlPlane, kubeconfig string) {
	const address = "127.0.0.1:8444"
	ctx, cancel := context.WithCancel(context.Background())
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, []string{"--kubeconfig", kubeconfig, "--bind-address=127.0.0.1", "--secure-port=8444", "--tls-secret", relaySecret},
			io.Discard, t.Output(), alone)
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-status; got != 0 {
			t.Errorf("the relay exited with %d, want 0", got)
		}
		p.emptySecret()
	})
	anyone := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	p.eventually("the relay to be ready", func() bool { return get(anyone, "https://"+address+"/readyz") == http.StatusOK })
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(p.authorities())) {
		t.Fatal("ca.crt has no certificate")
	}
	gateway := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: relayName}}}
	if got := get(gateway, "https://"+address+"/livez"); got != http.StatusOK {
		t.Errorf("a client that trusts ca.crt: %d", got)
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/smartnat/smartnat/pkg/config"
)

const userAgent = "smartnatd"

// kubeconfigConfig reads a kubeconfig as kubectl does.
func kubeconfigConfig(k config.Kubeconfig) (*rest.Config, error) {
	client, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: k.Path},
		&clientcmd.ConfigOverrides{CurrentContext: k.Context},
	).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("source.kubeconfig: %w", err)
	}
	if strings.Contains(client.Host, "@") { // the URL is in the log and in errors, some of which say it where it cannot be parsed
		return nil, fmt.Errorf("source.kubeconfig: %s: the server's URL must hold no user and no password: the user's entry has keys for them", k.Path)
	}
	client.Wrap(func(next http.RoundTripper) http.RoundTripper { return &guard{limits: defaultLimits, next: next} })
	return rest.AddUserAgent(client, userAgent), nil
}

// relayConfig reaches the first server that answers. Files are named, not read: client-go reads them again when they change.
func relayConfig(r config.Relay, log logrus.FieldLogger) (*rest.Config, error) {
	var servers []*url.URL
	for i, server := range r.Servers {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("source.relay.servers[%d]: %q: must be of the form https://HOST:PORT", i, server)
		}
		servers = append(servers, u)
	}
	if len(servers) == 0 {
		return nil, errors.New("source.relay.servers: must hold at least one URL")
	}
	client := &rest.Config{
		Host:            r.Servers[0],
		BearerTokenFile: r.TokenFile,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: r.CAFile, ServerName: r.ServerName, CertFile: r.CertFile, KeyFile: r.KeyFile,
		},
		// A server that is gone must not hold up the next one for long.
		Dial: (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
	}
	client.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &failover{next: &guard{limits: defaultLimits, next: next}, servers: servers, log: log}
	})
	return rest.AddUserAgent(client, userAgent), nil
}

// failover sends each request to the server that answered last, and moves on to the next when it does not. The
// body of a request, if it has one, must be one that can be had again. A watch that breaks is taken up again by client-go, and so moves too.
type failover struct {
	next    http.RoundTripper
	servers []*url.URL
	current atomic.Int64
	log     logrus.FieldLogger
}

func (f *failover) RoundTrip(request *http.Request) (*http.Response, error) {
	first := f.current.Load()
	var errs []error
	for i := range f.servers {
		n := (first + int64(i)) % int64(len(f.servers))
		attempt := request.Clone(request.Context())
		if request.GetBody != nil {
			body, err := request.GetBody()
			if err != nil {
				return nil, errors.Join(append(errs, err)...)
			}
			attempt.Body = body
		}
		attempt.URL.Scheme, attempt.URL.Host, attempt.Host = f.servers[n].Scheme, f.servers[n].Host, ""
		response, err := f.next.RoundTrip(attempt)
		last := i == len(f.servers)-1
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", f.servers[n].Host, err))
			if request.Context().Err() != nil {
				return nil, errors.Join(errs...)
			}
		case unavailable(response.StatusCode) && !last:
			discard(response)
		default:
			if f.current.CompareAndSwap(first, n) && n != first {
				f.log.WithField("server", f.servers[n].Host).Warn("moved to another relay")
			}
			if a, ok := request.Context().Value(answeredByKey{}).(*answeredBy); ok {
				a.leave = func() { f.current.CompareAndSwap(n, (n+1)%int64(len(f.servers))) }
			}
			return response, nil
		}
	}
	return nil, errors.Join(errs...)
}

// answeredBy, in the context of a request, learns of whom the answer came from: that it makes no sense is seen only after
// it was read, and then the next request had better go to another server.
type answeredBy struct {
	// server is the host and port that answered, empty where none did.
	server string
	leave  func()
}

type answeredByKey struct{}

func whoAnswers(ctx context.Context) (context.Context, *answeredBy) {
	a := &answeredBy{leave: func() {}}
	return context.WithValue(ctx, answeredByKey{}, a), a
}

// unavailable reports whether the server says that another one may do better.
func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// discard ends with a response such that its connection can be used again.
func discard(response *http.Response) {
	const most = 64 << 10
	_, _ = io.CopyN(io.Discard, response.Body, most) // what cannot be read costs a connection, no more
	_ = response.Body.Close()
}

// NoticeSilence has client-go ask connections on which nothing comes whether the other side is still there, and give them up
// when it does not say so: after 15 seconds in all, instead of 45. What is in the environment already stands. It is for
// main alone: client-go takes these from the environment and from nowhere else.
func NoticeSilence() error {
	for key, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if _, set := os.LookupEnv(key); set {
			continue
		}
		if err := os.Setenv(key, seconds); err != nil {
			return fmt.Errorf("setting %s: %w", key, err)
		}
	}
	return nil
}

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
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"

	"github.com/smartnat/smartnat/pkg/config"
)

const userAgent = "smartnatd"

// kubeconfigConfig loads a kubeconfig as kubectl does. Without a path, it returns the config of a pod, whose token client-go reads again
// when it changes.
func kubeconfigConfig(k config.Kubeconfig) (*rest.Config, error) {
	if k.Path == "" {
		client, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("source.kubeconfig: without a path, smartnatd must run in a pod: %w", err)
		}
		return guarded(client), nil
	}
	client, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: k.Path},
		&clientcmd.ConfigOverrides{CurrentContext: k.Context},
	).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("source.kubeconfig: %w", err)
	}
	if strings.Contains(client.Host, "@") { // logs and errors contain the URL, some errors even if it does not parse
		return nil, fmt.Errorf("source.kubeconfig: %s: the server's URL must not contain credentials: put them into the user entry", k.Path)
	}
	return guarded(client), nil
}

func guarded(client *rest.Config) *rest.Config {
	client.Wrap(func(next http.RoundTripper) http.RoundTripper { return &guard{limits: defaultLimits, next: next} })
	return rest.AddUserAgent(client, userAgent)
}

// relayConfig returns the client config of a relay, and the servers that it uses. It passes file names, not contents, because
// client-go reloads the files when they change. The token may come later than the client: it is read for the first request, each
// minute, and after a refusal.
func relayConfig(r config.Relay, log logrus.FieldLogger) (*rest.Config, *servers, error) {
	servers, err := newServers(r.Servers)
	if err != nil {
		return nil, nil, err
	}
	client := &rest.Config{
		Host: r.Servers[0],
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: r.CAFile, ServerName: r.ServerName, CertFile: r.CertFile, KeyFile: r.KeyFile,
		},
		// A dead server must not delay the attempt on the next one.
		Dial: (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
	}
	client.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &failover{next: &guard{limits: defaultLimits, next: next}, servers: servers, log: log}
	})
	if r.TokenFile != "" {
		client.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(r.TokenFile)))
	}
	return rest.AddUserAgent(client, userAgent), servers, nil
}

// failover sends each request to the server that answered last, and to the next one if that fails. A request with a body
// needs GetBody. client-go restarts a broken watch, so watches move as well.
type failover struct {
	next http.RoundTripper
	*servers
	log logrus.FieldLogger
}

func (f *failover) RoundTrip(request *http.Request) (*http.Response, error) {
	first := f.current.Load()
	var errs []error
	for i := range f.urls {
		n := (first + int64(i)) % int64(len(f.urls))
		attempt := request.Clone(request.Context())
		if request.GetBody != nil {
			body, err := request.GetBody()
			if err != nil {
				return nil, errors.Join(append(errs, err)...)
			}
			attempt.Body = body
		}
		attempt.URL.Scheme, attempt.URL.Host, attempt.Host = f.urls[n].Scheme, f.urls[n].Host, ""
		response, err := f.next.RoundTrip(attempt)
		last := i == len(f.urls)-1
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", f.urls[n].Host, err))
			if request.Context().Err() != nil {
				return nil, errors.Join(errs...)
			}
			f.failures[n].Add(1)
		case unavailable(response.StatusCode) && !last:
			discard(response)
			f.failures[n].Add(1)
		default:
			if f.current.CompareAndSwap(first, n) && n != first {
				f.log.WithField("server", f.urls[n].Host).Warn("switched to another relay")
			}
			if a, ok := request.Context().Value(answeredByKey{}).(*answeredBy); ok {
				a.leave = func() {
					f.failures[n].Add(1)
					f.current.CompareAndSwap(n, (n+1)%int64(len(f.urls)))
				}
			}
			return response, nil
		}
	}
	return nil, errors.Join(errs...)
}

// answeredBy, in the context of a request, records which server answered. If the response turns out to be invalid after it
// was read, leave makes the next request go to another server.
type answeredBy struct {
	// server is the host:port that answered, or empty.
	server string
	leave  func()
}

type answeredByKey struct{}

func whoAnswers(ctx context.Context) (context.Context, *answeredBy) {
	a := &answeredBy{leave: func() {}}
	return context.WithValue(ctx, answeredByKey{}, a), a
}

// unavailable reports whether a status code suggests another server.
func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// discard drains a response so that its connection can be reused.
func discard(response *http.Response) {
	const most = 64 << 10
	_, _ = io.CopyN(io.Discard, response.Body, most) // on failure, only the connection is lost
	_ = response.Body.Close()
}

// NoticeSilence sets environment variables by which client-go pings quiet connections and closes dead ones after 15
// seconds instead of 45. It keeps variables that are set already. Only main may call it: client-go has no other interface
// for these timeouts.
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

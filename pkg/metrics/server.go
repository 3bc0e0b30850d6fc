// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
)

const (
	// retryListen is the delay between attempts to listen. The address may be in use or not be assigned to the host yet.
	retryListen = 10 * time.Second
	// Requests are short and few.
	readTimeout, writeTimeout, idleTimeout = 5 * time.Second, 20 * time.Second, 2 * time.Minute
	maxHeaderBytes                         = 16 << 10
	maxConnections                         = 64
	maxScrapes                             = 4
)

// Probes return an error while the probe fails.
type Probes struct {
	// Alive fails if a restart would help, Ready until everything has been in effect.
	Alive, Ready func() error
}

// Server serves metrics and probes without TLS or authentication, for an address that only the host or its operators can
// reach. Its failures do not affect the rest of smartnatd.
type Server struct {
	handler http.Handler
	// page is set if handler has one.
	page bool
	log  logrus.FieldLogger

	retry   time.Duration
	address string
	stop    func()
}

// Server returns a server that does not listen yet. It passes all requests that are not its own to page, unless that is nil.
func (m *Metrics) Server(probes Probes, page http.Handler, log logrus.FieldLogger) *Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /livez", answer(probes.Alive))
	mux.HandleFunc("GET /readyz", answer(probes.Ready))
	if page != nil {
		mux.Handle("/", page)
	}
	return &Server{handler: mux, page: page != nil, log: log, retry: retryListen}
}

func answer(problem func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := problem(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// Listen switches to address, and the same port of loopback for the page, or stops serving if it is empty. It does not wait for the listener. It is not safe for
// concurrent use.
func (s *Server) Listen(address string) {
	if address == s.address {
		return
	}
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	s.address = address
	if address == "" {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	for _, at := range s.addresses(address) {
		serving.Go(func() { s.keepServing(ctx, at) })
	}
	s.stop = func() { cancel(); serving.Wait() }
}

// addresses adds the same port of loopback, where browsers on the host find the page, unless address includes that.
func (s *Server) addresses(address string) []string {
	all := []string{address}
	host, port, err := net.SplitHostPort(address)
	if !s.page || err != nil || host == "" || host == "localhost" {
		return all
	}
	if ip, err := netip.ParseAddr(host); err == nil && (ip.Unmap().IsLoopback() || ip.IsUnspecified()) {
		return all
	}
	return append(all, net.JoinHostPort("127.0.0.1", port))
}

func (s *Server) keepServing(ctx context.Context, address string) {
	log := s.log.WithField("address", address)
	for told := false; ; {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			told = false
			log.WithField("address", listener.Addr().String()).Info("serving metrics and probes")
			err = s.serve(ctx, listener)
		}
		if ctx.Err() != nil {
			return
		}
		if !told {
			log.WithError(err).Warn("cannot listen for metrics and probes, retrying")
			told = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.retry):
		}
	}
}

func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.handler, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	}
	ended := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer ended()
	err := server.Serve(netutil.LimitListener(listener, maxConnections))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	stdlog "log" //nolint:depguard // http.Server takes no other logger
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/relay/registry"
)

// Limits on what a client can make the relay hold.
const (
	readHeaderTimeout = 10 * time.Second
	writeTimeout      = time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
	// The relay pings a connection that is silent for pingAfter, and closes it if there is no answer within pingTimeout.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
)

// Server is a relay that is ready to run.
type Server struct {
	config   *Config
	http     *http.Server
	metrics  *http.Server // nil if metrics are not served
	stopping chan struct{}
}

// Complete creates the Server.
func (c *Config) Complete() (*Server, error) {
	c.instrument()
	s := &Server{config: c, stopping: make(chan struct{})}
	api, err := registry.New(c.Cache, s.stopping)
	if err != nil {
		return nil, fmt.Errorf("creating the API: %w", err)
	}
	api.Spread, api.Sent, api.Hold, api.Gateway = c.WatchSpread, c.metrics.sent, holdWatch, c.Gateways.sender
	c.Listener = newAdmission(c.Listener, c.Limits.Connections, c.Limits.ConnectionsPerUser, c.metrics)
	s.http = &http.Server{
		Handler:           newHandler(c, api, s.stopping),
		TLSConfig:         c.tlsConfig(),
		ReadHeaderTimeout: readHeaderTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withConnection,
		ErrorLog:          stdlog.New(logWriter{c.Log, c.metrics.tlsErrors}, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: c.Limits.StreamsPerConnection,
			// Clients send nothing large.
			MaxReadFrameSize: 16 << 10, MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 64 << 10,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: writeTimeout,
		},
	}
	if c.MetricsListener != nil {
		s.metrics = metricsServer(c.Metrics, s.http.ErrorLog)
	}
	return s, nil
}

// Run serves until ctx ends. Then it lets running requests end and ends watches over WatchSpread.
func (s *Server) Run(ctx context.Context) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopWork()
	wg.Go(func() { s.config.Upstream.run(work, s.config.Cache, s.config.metrics, s.config.Log) })
	wg.Go(func() { s.config.Gateways.run(work, s.config.metrics) })
	wg.Go(func() { s.config.ServingCert.run(work, s.config.Log) })
	if s.config.ClientCA != nil {
		wg.Go(func() { s.config.ClientCA.run(work, s.config.Log) })
	}
	wg.Go(func() { s.config.Status.run(work) })

	failed := make(chan error, 2)
	if s.metrics != nil {
		wg.Go(func() { failed <- s.metrics.Serve(s.config.MetricsListener) })
		defer func() { _ = s.metrics.Close() }()
	}
	wg.Go(func() { failed <- s.http.ServeTLS(s.config.Listener, "", "") })
	s.config.Log.WithField("address", s.config.Listener.Addr()).Info("serving")

	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	s.config.Log.Info("shutting down")
	close(s.stopping)
	end, cancel := context.WithTimeout(work, s.config.ShutdownTimeout)
	defer cancel()
	if err := s.shutdown(end); err != nil {
		return errors.Join(fmt.Errorf("waiting for requests to end: %w", err), s.http.Close())
	}
	return nil
}

// shutdown calls http.Server.Shutdown until it succeeds or ctx ends. One call sends GOAWAY only to the HTTP/2 connections
// that net/http knows at that moment. It then also waits for a connection that was in its handshake and got no GOAWAY.
func (s *Server) shutdown(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		err := s.http.Shutdown(attempt)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// Addr returns the listen address.
func (s *Server) Addr() net.Addr { return s.config.Listener.Addr() }

// logWriter logs and counts the errors that net/http reports on connections, mostly failed handshakes. Their text may
// quote what the client sent.
type logWriter struct {
	log    logrus.FieldLogger
	errors prometheus.Counter
}

func (w logWriter) Write(p []byte) (int, error) {
	w.errors.Inc()
	w.log.Debug(short(strings.TrimSpace(string(p))))
	return len(p), nil
}

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

// Limits of what a client can make the relay hold.
const (
	readHeaderTimeout = 10 * time.Second
	writeTimeout      = time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
	// A peer that is silent so long is asked whether it is there, and is cut off when it does not answer.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
)

// Server is a relay that is ready to run.
type Server struct {
	config   *Config
	http     *http.Server
	metrics  *http.Server // nil when nobody is to see them
	stopping chan struct{}
}

// Complete makes a Server of a Config.
func (c *Config) Complete() (*Server, error) {
	c.instrument()
	s := &Server{config: c, stopping: make(chan struct{})}
	api, err := registry.New(c.Cache, s.stopping)
	if err != nil {
		return nil, fmt.Errorf("API: %w", err)
	}
	api.Spread, api.Sent, api.Hold = c.WatchSpread, c.metrics.sent, held
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
			// Nothing long comes in.
			MaxReadFrameSize: 16 << 10, MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 64 << 10,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: writeTimeout,
		},
	}
	if c.MetricsListener != nil {
		s.metrics = metricsServer(c.Metrics, s.http.ErrorLog)
	}
	return s, nil
}

// Run serves until ctx ends, then lets the requests that are under way end, and ends watches over WatchSpread.
func (s *Server) Run(ctx context.Context) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopWork()
	wg.Go(func() { s.config.Upstream.run(work, s.config.Cache, s.config.metrics, s.config.Log) })
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
	s.config.Log.Info("ending")
	close(s.stopping)
	end, cancel := context.WithTimeout(work, s.config.ShutdownTimeout)
	defer cancel()
	if err := s.shutdown(end); err != nil {
		return errors.Join(fmt.Errorf("waiting for requests to end: %w", err), s.http.Close())
	}
	return nil
}

// shutdown asks until all have left: net/http asks those HTTP/2 connections that it knows at the moment, not one whose
// handshake is under way, and then waits for that as well, although nobody told it to end.
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

// Addr is where the Server listens.
func (s *Server) Addr() net.Addr { return s.config.Listener.Addr() }

// logWriter passes on what an HTTP server says about connections: bad handshakes, mostly. It may quote what the peer sent.
type logWriter struct {
	log    logrus.FieldLogger
	errors prometheus.Counter
}

func (w logWriter) Write(p []byte) (int, error) {
	w.errors.Inc()
	w.log.Debug(short(strings.TrimSpace(string(p))))
	return len(p), nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log" //nolint:depguard // http.Server takes no other logger
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/smartnat/smartnat/relay/registry"
)

// Limits of what a client can make the relay hold.
const (
	readHeaderTimeout = 10 * time.Second
	writeTimeout      = time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// Server is a relay that is ready to run.
type Server struct {
	config   *Config
	http     *http.Server
	certs    *dynamiccertificates.DynamicServingCertificateController
	stopping chan struct{}
}

// Complete makes a Server of a Config.
func (c *Config) Complete() (*Server, error) {
	s := &Server{config: c, stopping: make(chan struct{})}
	s.certs = dynamiccertificates.NewDynamicServingCertificateController(&tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		// A certificate is checked when it is used to authenticate a request: those who have a token need none.
		ClientAuth: tls.RequestClientCert,
	}, c.ClientCA, c.ServingCert, nil, nil)
	if err := s.certs.RunOnce(); err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	api, err := registry.New(c.Cache, s.stopping)
	if err != nil {
		return nil, fmt.Errorf("API: %w", err)
	}
	s.http = &http.Server{
		Handler:           newHandler(c, api, s.stopping),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: s.certs.GetConfigForClient},
		ReadHeaderTimeout: readHeaderTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          stdlog.New(logWriter{c.Log}, "", 0),
	}
	return s, nil
}

// Run serves until ctx ends, then lets the requests that are under way end, watches at once.
func (s *Server) Run(ctx context.Context) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopWork()
	wg.Go(func() { s.config.Upstream.Run(work, s.config.Cache) })
	s.watchCertificates(work, &wg)

	failed := make(chan error, 1)
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

// watchCertificates takes over certificate files that change.
func (s *Server) watchCertificates(ctx context.Context, wg *sync.WaitGroup) {
	type controller interface {
		AddListener(dynamiccertificates.Listener)
		Run(ctx context.Context, workers int)
	}
	for _, content := range []any{s.config.ServingCert, s.config.ClientCA} {
		if c, ok := content.(controller); ok {
			c.AddListener(s.certs)
			wg.Go(func() { c.Run(ctx, 1) })
		}
	}
	wg.Go(func() { s.certs.Run(1, ctx.Done()) })
}

// Addr is where the Server listens.
func (s *Server) Addr() net.Addr { return s.config.Listener.Addr() }

// logWriter passes on what the HTTP server says about connections: bad handshakes, mostly.
type logWriter struct{ log logrus.FieldLogger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug(string(p))
	return len(p), nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/packet"
)

// SocketPath returns the path of the socket of a smartnatd with this runtime directory.
func SocketPath(runtimeDir string) string { return filepath.Join(runtimeDir, "smartnatd.sock") }

const (
	statusPath  = "/v1/status"
	explainPath = "/v1/explain"
)

// maxQuestions bounds concurrent questions: each may read all rules.
const maxQuestions = 4

const (
	readTimeout = 10 * time.Second
	// answerTimeout covers an apply that waits for a program that hangs: a question waits for its end.
	answerTimeout = 2 * time.Minute
)

// Daemon is what the Server asks.
type Daemon interface {
	Config() config.Config
	Status() daemon.Status
	Report() *finding.Report
	Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error)
}

// Options are the sources of the Server's facts. All are required.
type Options struct {
	Version string
	Daemon  Daemon
	// Route asks the kernel for the route of a packet with a mark.
	Route func(destination netip.Addr, mark uint32) (explain.Hop, error)
	// Connections returns the current connections of a flow's client and destination.
	Connections func(explain.Flow) ([]explain.Connection, error)
	// Traffic returns what each Frontend carried.
	Traffic func(ctx context.Context) meter.Reading
	Log     logrus.FieldLogger
}

// Server answers questions.
type Server struct {
	Options
	server  *http.Server
	serving sync.WaitGroup
}

// NewServer returns a Server that does not listen yet.
func NewServer(options Options) *Server {
	s := &Server{Options: options}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, s.status)
	mux.HandleFunc("GET "+explainPath, s.explain)
	s.server = &http.Server{Handler: mux, ReadTimeout: readTimeout, WriteTimeout: answerTimeout}
	return s
}

// Listen serves on a socket that only this user may open. The caller must be the only one to use the path, as the owner of the
// lock of the runtime directory is: Listen replaces what a killed process left there.
func (s *Server) Listen(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing an old socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listening for commands: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return fmt.Errorf("protecting the socket for commands: %w", err)
	}
	s.serving.Go(func() {
		if err := s.server.Serve(netutil.LimitListener(listener, maxQuestions)); !errors.Is(err, http.ErrServerClosed) {
			s.Log.WithError(err).Error("commands get no answers any more")
		}
	})
	return nil
}

// Close stops serving and removes the socket.
func (s *Server) Close() {
	_ = s.server.Close()
	s.serving.Wait()
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	d := s.Daemon
	status := newStatus(s.Version, d.Config(), d.Status(), d.Report())
	status.count(s.Traffic(r.Context()))
	s.write(w, status)
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	flow, err := explain.ParseFlow(r.URL.Query().Get("source"), r.URL.Query().Get("destination"), r.URL.Query().Get("protocol"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	report := s.Daemon.Report()
	if report == nil {
		http.Error(w, "smartnatd has programmed nothing yet: see 'smartnatd status'", http.StatusServiceUnavailable)
		return
	}
	family := gateway.IPv4
	if flow.Source.Is6() {
		family = gateway.IPv6
	}
	tracer, err := s.Daemon.Tracer(r.Context(), family)
	if err != nil {
		http.Error(w, "reading the rules in the kernel: "+err.Error(), http.StatusInternalServerError)
		return
	}
	connections, err := s.Connections(flow)
	if err != nil {
		http.Error(w, "reading connections: "+err.Error(), http.StatusInternalServerError)
		return
	}
	s.write(w, explain.Explain(flow, explain.Facts{Report: *report, Tracer: tracer, Router: router(s.Route), Connections: connections}))
}

type router func(netip.Addr, uint32) (explain.Hop, error)

func (r router) Route(destination netip.Addr, mark uint32) (explain.Hop, error) {
	return r(destination, mark)
}

func (s *Server) write(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.Log.WithError(err).Debug("failed to answer a command")
	}
}

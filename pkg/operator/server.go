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

	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/flowlog"
	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/packet"
)

// SocketPath returns the path of the socket of a smartnatd with this runtime directory.
func SocketPath(runtimeDir string) string { return filepath.Join(runtimeDir, "smartnatd.sock") }

const (
	statusPath  = "/v1/status"
	explainPath = "/v1/explain"
	diffPath    = "/v1/diff"
	// connectionsPath has the parameters mapping, which may be empty, and limit.
	connectionsPath = "/v1/connections"
	// whoPath has the parameters seen and at, which may be empty.
	whoPath  = "/v1/who"
	pairPath = "/v1/pair"
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
	// LastChanges returns when what is in effect for a Mapping last changed, by namespace/name.
	LastChanges() map[string]time.Time
	Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error)
	Plan(ctx context.Context, state gateway.State) (dataplane.Plan, error)
}

// Options are the sources of the Server's facts. All are required.
type Options struct {
	Version string
	Daemon  Daemon
	// Route asks the kernel for the route of a packet with a mark.
	Route func(destination netip.Addr, mark uint32) (explain.Hop, error)
	// Connections returns the current connections of a flow's client and destination.
	Connections func(explain.Flow) ([]explain.Connection, error)
	// Flows passes all open connections of Mappings.
	Flows func(each func(flows.Flow)) error
	// FlowLog passes the connections in a log of ended ones that answer a question.
	FlowLog func(file string, q flows.Question, each func(r flows.Record, certain bool)) (flowlog.Found, error)
	// Traffic returns what each Frontend carried.
	Traffic func(ctx context.Context) meter.Reading
	// Pair returns the pair of which the gateway is one, or nil.
	Pair func() *ha.Status
	// Announced returns what the gateway announces, or nil if it announces nothing.
	Announced func() *announce.Status
	Log       logrus.FieldLogger
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
	mux.HandleFunc("GET "+explainPath, s.Explain)
	mux.HandleFunc("GET "+connectionsPath, s.connections)
	mux.HandleFunc("GET "+whoPath, s.who)
	mux.HandleFunc("GET "+pairPath, func(w http.ResponseWriter, _ *http.Request) { s.write(w, s.Pair()) })
	mux.HandleFunc("GET "+diffPath, s.diff)
	mux.HandleFunc("POST "+diffPath, s.diff)
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
	s.write(w, s.Status(r.Context()))
}

// Status returns the condition of the gateway.
func (s *Server) Status(ctx context.Context) Status {
	d := s.Daemon
	status := newStatus(s.Version, d.Config(), d.Status(), d.Report())
	status.count(s.Traffic(ctx))
	status.Pair, status.Announced = s.Pair(), s.Announced()
	changes := d.LastChanges()
	for i := range status.Mappings {
		m := &status.Mappings[i]
		m.LastChange = changes[m.Namespace+"/"+m.Name]
	}
	return status
}

// Explain answers the query parameters source, destination and protocol with an explain.Answer, or one line that says what is
// wrong.
func (s *Server) Explain(w http.ResponseWriter, r *http.Request) {
	flow, err := explain.ParseFlow(r.URL.Query().Get("source"), r.URL.Query().Get("destination"), r.URL.Query().Get("protocol"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	report, ok := s.report(w)
	if !ok {
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

// report returns the last report, or answers that there is none.
func (s *Server) report(w http.ResponseWriter) (*finding.Report, bool) {
	report := s.Daemon.Report()
	if report == nil {
		http.Error(w, "smartnatd has programmed nothing yet: see 'smartnatd status'", http.StatusServiceUnavailable)
	}
	return report, report != nil
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

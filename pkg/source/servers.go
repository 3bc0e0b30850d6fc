// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync/atomic"
)

// Server is a relay that the config names.
type Server struct {
	// Name is HOST:PORT.
	Name string
	// InUse is set for the server that gets the next request first: the one that answered last, unless its answer was invalid.
	InUse bool
	// Failures counts, since the start, the requests that it did not answer, or not validly.
	Failures int64
}

// servers are the relays of a config, and which of them to ask first.
type servers struct {
	urls     []*url.URL
	failures []atomic.Int64
	current  atomic.Int64
}

func newServers(from []string) (*servers, error) {
	s := &servers{failures: make([]atomic.Int64, len(from))}
	for i, server := range from {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("source.relay.servers[%d]: %q: must be of the form https://HOST:PORT", i, server)
		}
		s.urls = append(s.urls, u)
	}
	if len(s.urls) == 0 {
		return nil, errors.New("source.relay.servers: must hold at least one URL")
	}
	return s, nil
}

// list returns the servers in the order of the config, each once. There are none if s is nil.
func (s *servers) list() []Server {
	if s == nil {
		return nil
	}
	var all []Server
	current := s.current.Load()
	for i, u := range s.urls {
		at := slices.IndexFunc(all, func(other Server) bool { return other.Name == u.Host })
		if at < 0 {
			at = len(all)
			all = append(all, Server{Name: u.Host})
		}
		all[at].InUse = all[at].InUse || int64(i) == current
		all[at].Failures += s.failures[i].Load()
	}
	return all
}

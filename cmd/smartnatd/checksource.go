// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/source"
)

// checkTimeout is how long check waits for a server.
const checkTimeout = 10 * time.Second

// source asks each server for everything once, and checks the answer of the first server that works.
func (c *checker) source(ctx context.Context) []check.Line {
	if c.cfg.CheckFiles() != nil { // the config check reports unreadable files; libraries would report them again, and print secrets
		return nil
	}
	asked := askEach(ctx, servers(c.cfg.Source))
	lines, snapshot := judgeServers(asked)
	if snapshot == nil || c.observeErr != nil {
		return lines
	}
	lines = append(lines, check.Cluster(*snapshot, c.observed, c.cfg)...)
	lines = append(lines, check.Mappings(*snapshot, c.observed, c.cfg)...)
	return append(lines, check.Scale(*snapshot, c.observed, c.cfg, c.chosen.name)...)
}

// server is one of the servers that a source may ask.
type server struct {
	name   string
	source config.Source
	// snapshot is its answer; err is why there is none.
	snapshot objects.Snapshot
	err      error
}

// servers splits a source into sources with one server each.
func servers(of config.Source) []server {
	if of.Relay == nil {
		name := "source"
		if of.Kubeconfig != nil {
			name += " (kubeconfig " + of.Kubeconfig.Path + ")"
		}
		return []server{{name: name, source: of}}
	}
	var all []server
	for _, url := range of.Relay.Servers {
		relay := *of.Relay
		relay.Servers = []string{url}
		all = append(all, server{name: "source (" + url + ")", source: config.Source{Relay: &relay}})
	}
	return all
}

func askEach(ctx context.Context, all []server) []server {
	var asking sync.WaitGroup
	for i := range all {
		asking.Go(func() { all[i].snapshot, all[i].err = askOnce(ctx, all[i].source) })
	}
	asking.Wait()
	return all
}

// judgeServers reports failures if no server works. If another server works, a failing one is a warning.
func judgeServers(asked []server) ([]check.Line, *objects.Snapshot) {
	level := check.Failed
	var snapshot *objects.Snapshot
	for i := range asked {
		if asked[i].err == nil && snapshot == nil {
			snapshot, level = &asked[i].snapshot, check.Warning
		}
	}
	var lines []check.Line
	for _, s := range asked {
		line := check.Line{What: s.name, Text: "works"}
		if s.err != nil {
			line.Level, line.Text = level, s.err.Error()
		}
		lines = append(lines, line)
	}
	return lines, snapshot
}

// askOnce waits for one complete list of objects.
func askOnce(ctx context.Context, of config.Source) (objects.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	watched, err := source.New(of, func() {}, quiet)
	if err != nil {
		return objects.Snapshot{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- watched.Run(ctx) }()
	if cache.WaitForCacheSync(ctx.Done(), watched.HasSynced) {
		return watched.Snapshot(), nil
	}
	if err := <-ended; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return objects.Snapshot{}, err
	}
	why := watched.Contact().Why
	if why == "" {
		why = "no answer"
	}
	return objects.Snapshot{}, fmt.Errorf("no complete list of objects within %v: %s", checkTimeout, why)
}

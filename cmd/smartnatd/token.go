// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"
	"reflect"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/credential"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/source"
)

// tokenFiles returns the files of the token for the relay, or false if the source needs none. The folder of the config is read-only for
// the daemon, so it keeps the renewed token with its state.
func tokenFiles(cfg config.Config) (credential.Files, bool) {
	if cfg.Source.Relay == nil || cfg.Source.Relay.TokenFile == "" {
		return credential.Files{}, false
	}
	return credential.Files{Enrolled: cfg.Source.Relay.TokenFile, Kept: filepath.Join(cfg.StateDir, "token")}, true
}

// withToken returns the config with another file of the token.
func withToken(cfg config.Config, path string) config.Config {
	relay := *cfg.Source.Relay
	relay.TokenFile = path
	cfg.Source.Relay = &relay
	return cfg
}

// withNewestToken returns the config with the file of the newest token, for commands that run once.
func withNewestToken(cfg config.Config) config.Config {
	if files, ok := tokenFiles(cfg); ok {
		return withToken(cfg, files.Newest(time.Now()))
	}
	return cfg
}

// tokens renews the token of the config in use.
type tokens struct {
	ctx context.Context
	log logrus.FieldLogger
	// loaded has the files of the config that was loaded last.
	loaded credential.Files
	// stop ends the Keeper of files, which asks the relay of source, and waits for its end.
	stop   func()
	files  credential.Files
	source config.Source
}

// load returns the config with the file in which its token will be kept. It changes no file: the config may be refused yet.
func (t *tokens) load(cfg config.Config) config.Config {
	files, ok := tokenFiles(cfg)
	t.loaded = files
	if !ok {
		return cfg
	}
	path, err := files.Prepare(time.Now())
	if err != nil {
		t.log.WithError(err).Debug("using the enrolled credential")
	}
	return withToken(cfg, path)
}

// keep adopts and renews the token of the config that was loaded last, which is in use from now on. A config that is refused after load
// leaves the token and the Keeper of the one before.
func (t *tokens) keep(cfg config.Config) {
	if t.stop != nil && t.files == t.loaded && reflect.DeepEqual(t.source, cfg.Source) {
		return
	}
	if t.stop != nil {
		t.stop()
		t.stop = nil
	}
	if t.loaded == (credential.Files{}) {
		return
	}
	if err := t.loaded.Adopt(time.Now()); err != nil {
		t.log.WithError(err).Debug("using the enrolled credential")
	}
	client, err := source.ClientConfig(cfg.Source, t.log)
	if err != nil {
		return // the source reports it
	}
	request, err := credential.NewRequest(client)
	if err != nil {
		t.log.WithError(err).Warn("cannot renew the credential")
		return
	}
	ctx, stop := context.WithCancel(t.ctx)
	t.files, t.source = t.loaded, cfg.Source
	keeper := &credential.Keeper{Files: t.loaded, Request: request, Log: t.log}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		keeper.Run(ctx)
	}()
	t.stop = func() {
		stop()
		<-ended // it must not write after the next one does
	}
}

// newReporters also keeps the token, since nothing after it refuses a config.
func (t *tokens) newReporters(cfg config.Config) ([]daemon.Reporter, error) {
	reporters, err := newReporters(cfg, t.log)
	if err == nil {
		t.keep(cfg)
	}
	return reporters, err
}

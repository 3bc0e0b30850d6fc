// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/credential"
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
		return withToken(cfg, files.Newest())
	}
	return cfg
}

// tokens renews the token of the config in use.
type tokens struct {
	ctx  context.Context
	log  logrus.FieldLogger
	stop context.CancelFunc
}

// use returns the config with the file in which its token is kept, and keeps it from now on.
func (t *tokens) use(cfg config.Config) config.Config {
	if t.stop != nil {
		t.stop()
		t.stop = nil
	}
	files, ok := tokenFiles(cfg)
	if !ok {
		return cfg
	}
	path, err := files.Adopt()
	if err != nil {
		t.log.WithError(err).Debug("using the enrolled credential")
	}
	cfg = withToken(cfg, path)
	client, err := source.ClientConfig(cfg.Source, t.log)
	if err != nil {
		return cfg // the source reports it
	}
	request, err := credential.NewRequest(client)
	if err != nil {
		t.log.WithError(err).Warn("cannot renew the credential")
		return cfg
	}
	ctx, stop := context.WithCancel(t.ctx)
	t.stop = stop
	keeper := &credential.Keeper{Files: files, Request: request, Log: t.log}
	go keeper.Run(ctx)
	return cfg
}

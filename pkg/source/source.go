// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
)

// Source is where objects come from.
type Source interface {
	// Run keeps the Snapshot up to date until ctx ends.
	Run(ctx context.Context) error
	// HasSynced reports whether the Snapshot has ever been whole. Nothing may be decided from one that was not.
	HasSynced() bool
	// Snapshot returns what is known. What it holds is shared and must not be changed.
	Snapshot() calc.Snapshot
	// Contact tells how it stands with where the objects come from.
	Contact() Contact
}

// Contact is how it stands with the server, or the files, that objects come from.
type Contact struct {
	// Lost is set while what is known may be old: the server is out of reach or makes no sense, or the files are wrong.
	Lost bool
	// Since is when it was lost, and Why what failed last; neither says anything while it is not lost.
	Since time.Time
	Why   string
	// Last is when anything that made sense was read; it is zero before that.
	Last time.Time
	// Failures counts the requests and readings that failed since the start.
	Failures int64
	// Rejected counts the objects that no API server would have stored, each time that one was read, since the start.
	Rejected int64
}

// New returns the Source that the config names. It calls changed when the Snapshot has become whole, and whenever it differs
// thereafter; changed must return quickly.
func New(cfg config.Source, changed func(), log logrus.FieldLogger) (Source, error) {
	if cfg.Files != nil {
		return newFiles(cfg.Files.Paths, changed, log), nil
	}
	client, err := ClientConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	return newCluster(client, changed, log)
}

// ClientConfig says how the API is reached that the objects come from. Files come from none.
func ClientConfig(cfg config.Source, log logrus.FieldLogger) (*rest.Config, error) {
	switch {
	case cfg.Relay != nil:
		return relayConfig(*cfg.Relay, log)
	case cfg.Kubeconfig != nil:
		return kubeconfigConfig(*cfg.Kubeconfig)
	}
	return nil, errors.New("source: must hold one of relay, kubeconfig, files")
}

// Origin names the servers that the objects come from, so that what one cluster said is never taken for what another one says.
// Files have none: they are where they are after any boot.
func Origin(cfg config.Source) []string {
	switch {
	case cfg.Relay != nil:
		return cfg.Relay.Servers
	case cfg.Kubeconfig != nil:
		return []string{"kubeconfig " + cfg.Kubeconfig.Path + " " + cfg.Kubeconfig.Context}
	}
	return nil
}

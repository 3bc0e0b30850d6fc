// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Source provides the objects that a gateway works from.
type Source interface {
	// Run keeps the Snapshot up to date until ctx ends.
	Run(ctx context.Context) error
	// HasSynced reports whether the Snapshot has been complete once. An incomplete one must not be used.
	HasSynced() bool
	// Snapshot returns the known objects. They are shared and must not be modified.
	Snapshot() objects.Snapshot
	// Contact returns the state of the connection to the origin of the objects.
	Contact() Contact
}

// Contact is the state of the connection to the server, or of the files.
type Contact struct {
	// Lost is set while the Snapshot may be outdated: the server does not respond, its responses are invalid, or the files
	// are.
	Lost bool
	// Since is the time of the loss and Why the last error. Both are valid only while Lost is set.
	Since time.Time
	Why   string
	// Last is the time of the last valid response or reading, or zero.
	Last time.Time
	// Failures counts failed requests and readings since the start.
	Failures int64
	// Rejected counts, since the start, the objects received that no API server would have stored. An object counts each
	// time that it is received.
	Rejected int64
	// Servers are the relays, in the order of the config; nil for another kind of source.
	Servers []Server
}

// New returns the Source that the config selects. It calls changed when the Snapshot is complete and after each change
// from then on; changed must return quickly.
func New(cfg config.Source, changed func(), log logrus.FieldLogger) (Source, error) {
	if cfg.Files != nil {
		return newFiles(cfg.Files.Paths, changed, log), nil
	}
	client, servers, err := clientConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(client, changed, log)
	if err != nil {
		return nil, err
	}
	c.servers = servers
	return c, nil
}

// ClientConfig returns the client config of a relay or cluster. It fails for files.
func ClientConfig(cfg config.Source, log logrus.FieldLogger) (*rest.Config, error) {
	client, _, err := clientConfig(cfg, log)
	return client, err
}

// clientConfig also returns the servers of a relay, or nil.
func clientConfig(cfg config.Source, log logrus.FieldLogger) (*rest.Config, *servers, error) {
	switch {
	case cfg.Relay != nil:
		return relayConfig(*cfg.Relay, log)
	case cfg.Kubeconfig != nil:
		client, err := kubeconfigConfig(*cfg.Kubeconfig)
		return client, nil, err
	}
	return nil, nil, errors.New("source: must hold one of relay, kubeconfig, files")
}

// Origin returns the servers that the objects come from, so that objects of one cluster are never used for another. It
// returns nil for files, which are still there after a reboot.
func Origin(cfg config.Source) []string {
	switch {
	case cfg.Relay != nil:
		return cfg.Relay.Servers
	case cfg.Kubeconfig != nil:
		return []string{"kubeconfig " + cfg.Kubeconfig.Path + " " + cfg.Kubeconfig.Context}
	}
	return nil
}

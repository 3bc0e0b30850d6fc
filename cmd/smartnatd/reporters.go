// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/daemon"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/status"
)

// newReporters returns the reporters that write what this gateway has in effect into the status of Mappings. Objects from files
// have no status.
func newReporters(cfg config.Config, log logrus.FieldLogger) ([]daemon.Reporter, error) {
	if cfg.Source.Files != nil {
		return nil, nil
	}
	client, err := source.ClientConfig(cfg.Source, log)
	if err != nil {
		return nil, err
	}
	api, err := status.NewAPI(client)
	if err != nil {
		return nil, fmt.Errorf("reporting the status: %w", err)
	}
	options := status.Options{Instance: cfg.Instance, StandbyAddresses: cfg.StandbyAddresses, Log: log.WithField("server", client.Host)}
	if cfg.Source.Relay != nil {
		options.Writer = status.NewRelayClient(cfg.Instance, api)
		if cfg.InstanceFromHost {
			options.Writer = status.NewUnnamedClient(cfg.Instance, api)
		}
		return []daemon.Reporter{status.New(options)}, nil
	}
	options.Writer = status.NewClusterClient(cfg.Instance, api, status.LeaseNamespace)
	conditions := status.NewConditions(api, cfg.Grants, options.Log)
	options.Reported = conditions.Reported
	return []daemon.Reporter{status.New(options), conditions}, nil
}

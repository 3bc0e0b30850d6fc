// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/status"
)

// reporting is a controller with a reporter of its results. Failures of the reporter do not affect the controller.
type reporting struct {
	*controller.Controller
	reporter reporter
}

type reporter interface {
	Report(finding.Report)
	Run(ctx context.Context)
}

// Run implements runner.
func (r reporting) Run(ctx context.Context, objects controller.Source) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { r.reporter.Run(ctx) })
	err := r.Controller.Run(ctx, objects)
	cancel()
	running.Wait()
	return err
}

// newReporter returns the reporter that writes what this gateway has in effect into the status of Mappings.
func newReporter(cfg config.Config, log logrus.FieldLogger) (reporter, error) {
	if cfg.Source.Files != nil {
		return silent{}, nil
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
		return status.New(options), nil
	}
	options.Writer = status.NewClusterClient(cfg.Instance, api, status.LeaseNamespace)
	conditions := status.NewConditions(api, options.Log)
	options.Reported = conditions.Reported
	return both{status.New(options), conditions}, nil
}

// both are two reporters.
type both [2]reporter

func (b both) Report(f finding.Report) {
	for _, r := range b {
		r.Report(f)
	}
}

func (b both) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, r := range b {
		running.Go(func() { r.Run(ctx) })
	}
	running.Wait()
}

// silent is the reporter for objects from files, which have no status.
type silent struct{}

func (silent) Report(finding.Report)   {}
func (silent) Run(ctx context.Context) { <-ctx.Done() }

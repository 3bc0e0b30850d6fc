// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/iptables/program"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

func newBoundaryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "boundary",
		Short: "Write the boundary of the uplinks before smartnatd runs, then exit",
		Long: `boundary writes the rules that prevent forwarding of packets from an uplink, for IPv4 and IPv6, and changes nothing
else: the host keeps forwarding for Mappings. It needs no network, no cluster and no uplink that is up, so
that smartnat-boundary.service runs it at boot before any link is configured. If smartnatd is running, it does nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			lock, err := lockInstance(cfg.RuntimeDir)
			if errors.Is(err, errRunning) {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "smartnatd is running and holds the boundary")
				return err
			}
			if err != nil {
				return err
			}
			defer lock.Close()
			return guard(cmd, cfg)
		},
	}
}

// guard puts up the boundary.
func guard(cmd *cobra.Command, cfg config.Config) error {
	ctx := cmd.Context()
	chosen, err := choosePlane(cfg, tryOnce(cfg.RuntimeDir, false, func(programs *program.Runner) error { return tryIPTables(ctx, cfg, programs) }))
	if err != nil {
		return err
	}
	if chosen.programs != nil {
		if err := chosen.programs.WithoutIPv6(); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "no boundary for IPv6, ip6tables does not work:", err)
		}
	}
	observed, err := host.New(logrus.StandardLogger()).Before(sysctl.New(cfg.RuntimeDir).Before).Physdev(chosen.physdev).Observe()
	if err != nil {
		return fmt.Errorf("observing the host: %w", err)
	}
	state, _ := calc.Calculate(objects.Snapshot{}, observed, cfg)
	programmed, _, err := new(dataplanes).dataplane(cfg, chosen, chosen.programs, nil)
	if err != nil {
		return err
	}
	result, err := programmed.Guard(ctx, state)
	if err != nil {
		return fmt.Errorf("putting up the boundary: %w", err)
	}
	if result.Empty() {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "the boundary is up")
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), "put up the boundary:", result)
	return err
}

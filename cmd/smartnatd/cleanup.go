// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/nftables"
)

func newCleanupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything that smartnatd has programmed on this host, and nothing else",
		Long: `cleanup removes the rules of iptables and nftables, the ip rules and the routes that belong to SmartNat by the ownership section of the config file, and
restores the sysctls. Stop smartnatd first: established connections through it end.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			lock, err := lockInstance(cfg.RuntimeDir)
			if err != nil {
				return err
			}
			defer lock.Close()
			result, err := everything(cfg).Cleanup(cmd.Context())
			if err != nil {
				return fmt.Errorf("cleaning up: %w", err)
			}
			if err := savedObjects(cfg).SetOutdated(false); err != nil { // nothing newer than the saved objects is programmed now
				return err
			}
			if result.Empty() {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing to remove")
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "removed:", result)
			return err
		},
	}
}

// everything returns a data plane that programs nothing, and whose leftovers are all rules that any data plane can program.
func everything(cfg config.Config) *dataplane.Dataplane {
	return assemble(cfg, nftables.New(nftables.Options{}), allIPTables(cfg), tableLeftovers{new(dataplanes), cfg})
}

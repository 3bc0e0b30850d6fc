// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCleanupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything that smartnatd has programmed on this host, and nothing else",
		Long: `cleanup removes the chains, ip rules and routes that belong to SmartNat by the ownership section of the config file, and
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
			tables, err := newIPTables(cfg)
			if err != nil {
				return err
			}
			sets, _ := newSets(cfg, tables) // a host without sets holds none of ours
			result, err := newDataplane(cfg, tables, tables, sets).Cleanup(cmd.Context())
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

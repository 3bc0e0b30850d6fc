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
		Long: `cleanup removes the chains, ip rules and routes that are SmartNat's by the ownership section of the config file, and
sets sysctls back to what smartnatd found. Stop smartnatd first: established connections through it end.`,
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
			sets, _ := newSets(cfg, tables) // a host without them holds none of ours
			result, err := newDataplane(cfg, tables, tables, sets).Cleanup(cmd.Context())
			if err != nil {
				return fmt.Errorf("cleaning up: %w", err)
			}
			if err := savedObjects(cfg).SetOutdated(false); err != nil { // what was newer is gone
				return err
			}
			if result.Empty() {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing of SmartNat's was found")
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "removed:", result)
			return err
		},
	}
}

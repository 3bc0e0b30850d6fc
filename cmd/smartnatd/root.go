// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/config"
)

const (
	configFlag    = "config"
	defaultConfig = "/etc/smartnat.yaml"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "smartnatd",
		Short: "Expose Services of a Kubernetes cluster on the external addresses of this host",
		Long: `smartnatd watches Mappings, and the Services and endpoints that they name, and programs this host to forward
connections to them. The kernel moves the packets: they keep flowing while smartnatd is stopped.

Without a command it runs until a signal stops it. The programmed state stays; 'smartnatd cleanup' removes it.`,
		Version:       versionText(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDaemon(cmd.Context(), func() (config.Config, error) {
				cfg, err := readConfig(cmd)
				if err != nil {
					return cfg, err
				}
				// A failure here is not a usage error: another program may still be writing these files, so a retry may help.
				return cfg, cfg.CheckFiles()
			})
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentFlags().String(configFlag, defaultConfig, "the config `file`")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newStatusCommand(), newExplainCommand(), newConnectionsCommand(), newWhoCommand(), newDiffCommand(), newCheckCommand(), newEnrollCommand(),
		newRenderCommand(), newHACommand(), newBoundaryCommand(), newCleanupCommand(), newBugreportCommand(), newVersionCommand())
	root.AddCommand(buildCommands()...)
	return root
}

// loadConfig is readConfig for a command that runs once: with the token that a running smartnatd may have renewed.
func loadConfig(cmd *cobra.Command) (config.Config, error) {
	cfg, err := readConfig(cmd)
	if err != nil {
		return cfg, err
	}
	return withNewestToken(cfg), nil
}

// readConfig reads the file that --config names. Each mistake in it is one line of the error.
func readConfig(cmd *cobra.Command) (config.Config, error) {
	path, err := cmd.Flags().GetString(configFlag)
	if err != nil {
		return config.Config{}, err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return cfg, usageError{err}
	}
	return cfg, nil
}

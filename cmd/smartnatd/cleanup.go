// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/nftables"
)

func newCleanupCommand() *cobra.Command {
	q := newQuestion(&cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything that smartnatd has programmed on this host, and nothing else",
		Long: `cleanup removes the rules of iptables and nftables, the ip rules and the routes that belong to SmartNat by the ownership section of the config file, and
restores the sysctls. Stop smartnatd first: established connections through it end.`,
		Args: cobra.NoArgs,
	})
	q.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := q.checkFormat(); err != nil {
			return err
		}
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
		return q.print(newCleanupAnswer(result), func(w io.Writer) error {
			if result.Empty() {
				_, err = fmt.Fprintln(w, "nothing to remove")
				return err
			}
			_, err = fmt.Fprintln(w, "removed:", result)
			return err
		})
	}
	return q.Command
}

// cleanupAnswer counts what cleanup removed, for programs.
type cleanupAnswer struct {
	Chains      int `json:"chains"`
	Rules       int `json:"rules"`
	Sets        int `json:"sets"`
	Routes      int `json:"routes"`
	IPRules     int `json:"ipRules"`
	Connections int `json:"connections"`
	// Sysctls are the paths of the kernel parameters that were restored.
	Sysctls []string `json:"sysctls"`
}

func newCleanupAnswer(r dataplane.Result) cleanupAnswer {
	return cleanupAnswer{r.Chains, r.Rules, r.Sets, r.Routes(), r.IPRules(), r.Connections, append([]string{}, r.Sysctls...)}
}

// everything returns a data plane that programs nothing, and whose leftovers are all rules that any data plane can program.
func everything(cfg config.Config) *dataplane.Dataplane {
	return assemble(cfg, nftables.New(nftables.Options{}), allIPTables(cfg), tableLeftovers{new(dataplanes), cfg})
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/atomicfile"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/ha/pair"
)

func newHACommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "ha",
		Short: "Render the config of keepalived and conntrackd for a pair of gateways, and look at the pair",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.AddCommand(newHARenderCommand(), newHACheckCommand(), newHAStatusCommand(), newHANotifyCommand())
	return command
}

// renderers are the words of 'ha render' and the files that each one selects.
func renderers() map[string]func(path string) bool {
	return map[string]func(path string) bool{
		"keepalived": func(path string) bool { return path == ha.KeepalivedFile },
		"conntrackd": func(path string) bool { return path == ha.ConntrackdFile },
		"units":      func(path string) bool { return strings.HasPrefix(path, "systemd/") },
	}
}

func newHARenderCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "render [keepalived] [conntrackd] [units]",
		Short: "Print or write the files of a pair that follow from the config; needs no root",
		Long: `render prints the config of keepalived and conntrackd, and drop-ins for the units of both and of smartnatd, as they follow from ha in
the config. With --output it writes them below a folder, and prints their paths. Render them again after a change of the config.`,
		Example: "  smartnatd ha render keepalived\n  smartnatd ha render --output /etc && systemctl daemon-reload && systemctl restart conntrackd keepalived",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, word := range args {
				if renderers()[word] == nil {
					return usageError{fmt.Errorf("%q: want keepalived, conntrackd or units, or nothing for all", word)}
				}
			}
			files, err := haFiles(cmd, args)
			if err != nil {
				return usageError{err}
			}
			for i, f := range files {
				if output == "" {
					if i > 0 {
						fmt.Fprintln(cmd.OutOrStdout())
					}
					if len(files) > 1 {
						fmt.Fprintf(cmd.OutOrStdout(), "# /etc/%s\n", f.Path)
					}
					fmt.Fprint(cmd.OutOrStdout(), f.Text)
					continue
				}
				path := filepath.Join(output, f.Path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return fmt.Errorf("making the folder for %s: %w", path, err)
				}
				if err := atomicfile.Write(path, []byte(f.Text), 0o644); err != nil {
					return fmt.Errorf("writing %s: %w", path, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "wrote   %s\n", path)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the `folder` to write to, such as /etc; by default the files are printed")
	return cmd
}

// haFiles returns the files that the words select, or all.
func haFiles(cmd *cobra.Command, words []string) ([]ha.File, error) {
	cfg, err := loadConfig(cmd)
	if err != nil {
		return nil, err
	}
	programs, err := haPrograms(cmd)
	if err != nil {
		return nil, err
	}
	files, err := ha.Files(cfg, programs)
	return slices.DeleteFunc(files, func(f ha.File) bool {
		return len(words) > 0 && !slices.ContainsFunc(words, func(word string) bool { return renderers()[word](f.Path) })
	}), err
}

// haPrograms returns the paths of this program and its config.
func haPrograms(cmd *cobra.Command) (ha.Programs, error) {
	path, err := cmd.Flags().GetString(configFlag)
	if err != nil {
		return ha.Programs{}, err
	}
	programs := ha.Programs{}
	if programs.Config, err = filepath.Abs(path); err != nil {
		return programs, fmt.Errorf("finding the config: %w", err)
	}
	if programs.Smartnatd, err = os.Executable(); err != nil {
		return programs, fmt.Errorf("finding this program: %w", err)
	}
	return programs, nil
}

func newHANotifyCommand() *cobra.Command {
	var runtimeDir, program, instance string
	var addresses []string
	cmd := &cobra.Command{
		Use:   "notify ROLE",
		Short: "Note a change of role and tell conntrackd; keepalived runs it",
		Long: `notify notes the role of this box (primary, backup, fault or stopped) and its time for 'smartnatd ha status', and gives conntrackd the
commands that follow: a primary sends all connections to the peer, and a backup asks the peer for all. With --runtime-dir it does not read
the config, which may be invalid when the role changes.

A hook, if there is one, is called at the same time: with the role as its argument, until it succeeds or the role changes again, at most 20
times of 30 s. keepalived.conf has its flags.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(ha.Roles(), ha.Role(args[0])) {
				return usageError{fmt.Errorf("want one of the roles %v", ha.Roles())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if runtimeDir == "" {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return err
				}
				if !cfg.HA.Enabled() {
					return usageError{errNoPair}
				}
				runtimeDir = cfg.RuntimeDir
				if program == "" {
					program, instance, addresses = cfg.HA.Hook, cfg.Instance, ha.HookAddresses(cfg.HA)
				}
			}
			var hook *ha.Hook
			if program != "" {
				h, err := ha.NewHook(program, instance, addresses)
				if err != nil {
					return usageError{err}
				}
				hook = &h
			}
			return pair.Notify(cmd.Context(), runtimeDir, ha.Role(args[0]), hook)
		},
	}
	cmd.Flags().StringVar(&runtimeDir, "runtime-dir", "", "the `folder` that runtimeDir names; by default the config is read")
	cmd.Flags().StringVar(&program, "hook", "", "the `program` to call too")
	cmd.Flags().StringVar(&instance, "instance", "", "the `name` of this instance, for the hook")
	cmd.Flags().StringSliceVar(&addresses, "addresses", nil, "the virtual addresses, `LINK=ADDRESS`, for the hook")
	return cmd
}

// errNoPair ends a command of a pair on a host without one.
var errNoPair = errors.New("ha: is not set in the config, so there is no pair")

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	nftrules "github.com/smartnat/smartnat/pkg/nftables/rules"
	nftruleset "github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/policyrouting"
	"github.com/smartnat/smartnat/pkg/source"
)

func newRenderCommand() *cobra.Command {
	var files []string
	var plane string
	command := &cobra.Command{
		Use:   "render -f FILE",
		Short: "Print what smartnatd would program for the objects in files; needs no root and changes nothing",
		Long: `render prints the complete input of iptables-restore and ip6tables-restore, and the ip rules and routes, that smartnatd
would program for the Mappings, Services and EndpointSlices in the files. With --dataplane nftables it prints input of
nft -f, with the ip rules and routes as comments. Standard error gets a line for each finding that keeps a Mapping from
being in effect. If a Mapping is not accepted, render prints the rest and exits with 1.

Without --config every address of every Mapping counts as an address of this host, and there are no uplinks and no
flowtable. With it, the output has the flowtable even if this kernel has none: only root could find out.`,
		Example: "  smartnatd render -f mapping.yaml -f service.yaml\n  kubectl get mappings,services,endpointslices -o yaml | smartnatd render -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usageError{errors.New("name the files that hold the objects: -f FILE, or -f - for standard input")}
			}
			if plane != config.DataplaneIPTables && plane != config.DataplaneNFTables {
				return usageError{fmt.Errorf("--dataplane %q must be %s or %s", plane, config.DataplaneIPTables, config.DataplaneNFTables)}
			}
			snapshot, err := source.ReadFiles(files, cmd.InOrStdin())
			if err != nil {
				return usageError{err}
			}
			cfg, observed, err := renderConfig(cmd)
			if err != nil {
				return err
			}
			state, findings := calc.Calculate(snapshot, observed, cfg)
			for _, finding := range findings {
				fmt.Fprintln(cmd.ErrOrStderr(), finding)
			}
			render := renderIPTables
			if plane == config.DataplaneNFTables {
				render = renderNFTables
			}
			if err := render(cmd.OutOrStdout(), state, cfg); err != nil {
				return err
			}
			return notAccepted(findings)
		},
	}
	command.Flags().StringArrayVarP(&files, "filename", "f", nil, "a `file` or folder of objects, or - for standard input; may be given several times")
	command.Flags().StringVar(&plane, "dataplane", config.DataplaneIPTables, "the data plane whose rules to print, `iptables` or nftables")
	return command
}

// notAccepted returns an error if a Mapping is invalid, or cannot have a port.
func notAccepted(findings []finding.Finding) error {
	names := map[string]struct{}{}
	for _, f := range findings {
		if f.Condition == v1alpha1.ConditionAccepted {
			names[f.Namespace+"/"+f.Name] = struct{}{}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("not accepted: %s", strings.Join(slices.Sorted(maps.Keys(names)), ", "))
}

// renderConfig returns the config file and the real host, or without --config the defaults and a host that has every address.
func renderConfig(cmd *cobra.Command) (config.Config, gateway.Host, error) {
	if !cmd.Flags().Changed(configFlag) {
		cfg := config.Default()
		cfg.AnyAddress = true
		return cfg, gateway.Host{}, nil
	}
	cfg, err := loadConfig(cmd)
	if err != nil {
		return cfg, gateway.Host{}, err
	}
	observed, err := host.New(logrus.StandardLogger()).Observe()
	if err != nil {
		return cfg, observed, fmt.Errorf("observing the host: %w", err)
	}
	// Without root, there is no way to find out.
	observed.Flowtable = cfg.Flowtable != config.FlowtableOff
	return cfg, observed, nil
}

func renderIPTables(out io.Writer, state gateway.State, cfg config.Config) error {
	options := rules.Options{Ownership: cfg.Ownership, RandomFully: true}
	for _, family := range []struct {
		family  gateway.Family
		program string
	}{{gateway.IPv4, "iptables-restore"}, {gateway.IPv6, "ip6tables-restore"}} {
		text := ruleset.Render(rules.Build(state, family.family, options))
		if _, err := fmt.Fprintf(out, "# %s --noflush\n%s\n", family.program, text); err != nil {
			return err
		}
	}
	return renderRouting(out, "", state, cfg)
}

// renderNFTables prints a whole that nft(8) can read.
func renderNFTables(out io.Writer, state gateway.State, cfg config.Config) error {
	if _, err := fmt.Fprintln(out, "# nft -f"); err != nil {
		return err
	}
	for _, family := range []gateway.Family{gateway.IPv4, gateway.IPv6} {
		if err := nftruleset.WriteText(out, nftrules.Build(state, family, cfg.Ownership), cfg.Ownership.TableName()); err != nil {
			return fmt.Errorf("printing the IPv%d rules: %w", family, err)
		}
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
	}
	return renderRouting(out, "# ", state, cfg)
}

func renderRouting(out io.Writer, prefix string, state gateway.State, cfg config.Config) error {
	if _, err := fmt.Fprintln(out, "# ip rules and routes"); err != nil {
		return err
	}
	for _, command := range policyrouting.Build(state, cfg.Ownership).Commands() {
		if _, err := fmt.Fprintln(out, prefix+command); err != nil {
			return err
		}
	}
	return nil
}

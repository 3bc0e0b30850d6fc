// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/atomicfile"
	"github.com/smartnat/smartnat/pkg/enroll"
	"github.com/smartnat/smartnat/pkg/plugin"
)

const relayNamespace = "smartnat"

func newEnrollCommand(a *access) *cobra.Command {
	e := &plugin.Enrollment{}
	var output, authority string
	var networks []string
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "enroll GATEWAY",
		Short: "Print the bundle that makes a host a gateway, or renews its credential",
		Long: `enroll creates a ServiceAccount for the gateway that may read what the relay serves, and prints a bundle: a new token of it, which only
the relay accepts, the relay's addresses and authority, and the networks of the cluster. The bundle is a secret.

With --addresses, the relay shows the gateway only Mappings of these addresses, and what they name; without the flag, that stays as it is.
'kubectl smartnat limit' changes it later, without a new bundle.

With --node, the host is a node of the cluster: the relay also tells it which node each endpoint is on, for Mappings with
masquerade: false. Without the flag, it is none.

The token lasts an hour. In this time smartnatd has to start with it; from then on, it renews the token by itself. If a host was off for so
long that its token ended, or if a bundle may have been copied, run enroll again: all earlier tokens of the gateway end within a minute.`,
		Example: `  kubectl smartnat enroll gateway-1 --output gateway-1.yaml
  kubectl smartnat enroll gateway-1 --addresses 198.51.100.10,2001:db8::/64 --output gateway-1.yaml
  kubectl smartnat enroll gateway-1 --node worker-1 --output gateway-1.yaml
  kubectl smartnat enroll gateway-1 | ssh root@203.0.113.10 smartnatd enroll - --start`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			e.Gateway = args[0]
			if e.ServiceNetworks, err = parseNetworks(networks); err != nil {
				return err
			}
			if e.CertificateAuthority, err = readAuthority(authority); err != nil {
				return err
			}
			if err := e.Validate(); err != nil {
				return usageError{err}
			}
			if e.Client, err = a.client(); err != nil {
				return err
			}
			bundle, err := enrollSoon(cmd, e, patience)
			if bundle == nil {
				return err
			}
			return errors.Join(writeBundle(cmd, bundle, output), err)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", "", "write the bundle to this `file`, which only you can read")
	flags.StringVar(&e.Namespace, "namespace", relayNamespace, "the `namespace` of the relay")
	flags.StringVar(&e.Addresses, "addresses", "", "a `list` of what the gateway serves: addresses, networks and uplinks, as in 198.51.100.10,2001:db8::/64,uplink:eth1; or all")
	flags.StringVar(&e.Node, "node", "", "the `name` of the node of the cluster that the gateway is: the relay tells it which node each endpoint is on")
	flags.DurationVar(&e.Duration, "duration", time.Hour, "the time until which smartnatd has to run with the bundle: it then renews the credential; the cluster may shorten it")
	flags.StringArrayVar(&e.Servers, "server", nil, "a `URL` by which the gateway reaches the relay; may be given several times; by default derived from the Service and the nodes")
	flags.StringVar(&e.ServerName, "server-name", "", "the `name` in the relay's certificate (default smartnat-relay.NAMESPACE.svc)")
	flags.StringVar(&authority, "certificate-authority", "", "a `file` with the authority of the relay's certificate; by default from the Secret smartnat-relay-tls")
	flags.StringArrayVar(&networks, "service-network", nil, "a `range` of ClusterIPs; by default those of the cluster's ServiceCIDRs")
	flags.DurationVar(&patience, "wait", 2*time.Minute, "how long to wait for a relay that was just installed")
	return cmd
}

// writeBundle writes a bundle to a file, or to standard output without one.
func writeBundle(cmd *cobra.Command, bundle *enroll.Bundle, output string) error {
	text, err := bundle.Marshal()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "gateway %s: run smartnatd on its host before %s, which then renews the credential; its earlier credentials end\n", bundle.Gateway, bundle.Expires.UTC().Format(time.RFC3339))
	if output != "" {
		if err := atomicfile.Write(output, text, 0o600); err != nil {
			return fmt.Errorf("writing the bundle: %w", err)
		}
		return nil
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
}

// enrollSoon enrolls once the relay has its certificate, which it makes when it starts.
func enrollSoon(cmd *cobra.Command, e *plugin.Enrollment, patience time.Duration) (*enroll.Bundle, error) {
	end := time.NewTimer(patience)
	defer end.Stop()
	for try := 0; ; try++ {
		bundle, err := e.Enroll(cmd.Context())
		if !errors.Is(err, plugin.ErrNoCertificate) {
			return bundle, err
		}
		if try == 0 && patience > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting up to %s for the relay to start\n", patience)
		}
		select {
		case <-cmd.Context().Done():
			return nil, err
		case <-end.C:
			return nil, err
		case <-time.After(time.Second):
		}
	}
}

func readAuthority(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--certificate-authority: %w", err)
	}
	return string(text), nil
}

func parseNetworks(texts []string) (networks []netip.Prefix, err error) {
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("--service-network: %q is not a network such as 10.96.0.0/16", text)}
		}
		networks = append(networks, network)
	}
	return networks, nil
}

func newLimitCommand(a *access) *cobra.Command {
	e := &plugin.Enrollment{Duration: time.Hour}
	cmd := &cobra.Command{
		Use:   "limit GATEWAY ADDRESSES",
		Short: "Change what an enrolled gateway sees",
		Long: `limit makes the relay show an enrolled gateway only Mappings of a list of addresses, networks and uplinks, and what they name; or "all".
Running watches follow at once, and the gateway needs no new bundle.`,
		Example: "  kubectl smartnat limit gateway-1 198.51.100.10,2001:db8::/64,uplink:eth1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || args[1] == "" {
				return usageError{errors.New("want a gateway and what it may see, as in: kubectl smartnat limit gateway-1 198.51.100.10")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			e.Gateway, e.Addresses = args[0], args[1]
			if err := e.Validate(); err != nil {
				return usageError{err}
			}
			if e.Client, err = a.client(); err != nil {
				return err
			}
			if err := e.Limit(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "gateway %s now sees %s\n", e.Gateway, e.Addresses)
			return nil
		},
	}
	cmd.Flags().StringVar(&e.Namespace, "namespace", relayNamespace, "the `namespace` of the relay")
	return cmd
}

func newRevokeCommand(a *access) *cobra.Command {
	e := &plugin.Enrollment{Duration: time.Hour}
	cmd := &cobra.Command{
		Use:   "revoke GATEWAY",
		Short: "End all credentials of a gateway",
		Long: `revoke deletes the gateway's ServiceAccount, and all that enroll made for it. Within a minute its requests are refused and its open watches end. The host keeps forwarding
what it has programmed; 'smartnatd cleanup' there ends that.`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			e.Gateway = args[0]
			if err := e.Validate(); err != nil {
				return usageError{err}
			}
			if e.Client, err = a.client(); err != nil {
				return err
			}
			if err := e.Revoke(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "gateway %s is revoked\n", e.Gateway)
			return nil
		},
	}
	cmd.Flags().StringVar(&e.Namespace, "namespace", relayNamespace, "the `namespace` of the relay")
	return cmd
}

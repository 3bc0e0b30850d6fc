// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// access selects the cluster, by the same rules and flags as kubectl.
type access struct {
	rules     *clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides
}

func (a *access) config() clientcmd.ClientConfig {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(a.rules, &a.overrides)
}

func (a *access) client() (dynamic.Interface, error) {
	config, err := a.config().ClientConfig()
	if err != nil {
		return nil, noKubeconfig(err)
	}
	rest.AddUserAgent(config, "kubectl-smartnat")
	return dynamic.NewForConfig(config)
}

// noKubeconfig says in the words of an administrator why a kubeconfig could not be loaded.
func noKubeconfig(err error) error {
	if clientcmd.IsEmptyConfig(err) {
		return usageError{errors.New("there is no kubeconfig: name it by KUBECONFIG or --kubeconfig")}
	}
	return fmt.Errorf("loading the kubeconfig: %w", err)
}

func newRootCommand() *cobra.Command {
	a := &access{rules: clientcmd.NewDefaultClientConfigLoadingRules()}
	root := &cobra.Command{
		Use:   "kubectl-smartnat",
		Short: "Enroll gateways of SmartNat, and see what a cluster knows about its Mappings",
		Long: `kubectl smartnat runs with your kubeconfig, as kubectl does. It leaves to smartnatd what only a gateway knows, such as rules and
connections, and says which command to run on which host.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl smartnat"},
		Version:       version,
		Args:          noArguments,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("kubectl-smartnat {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&a.rules.ExplicitPath, "kubeconfig", "", "the kubeconfig `file`")
	root.PersistentFlags().StringVar(&a.overrides.CurrentContext, "context", "", "the `context` in the kubeconfig")
	root.AddCommand(newStatusCommand(a), newExplainCommand(a), newConnectionsCommand(a), newEnrollCommand(a), newLimitCommand(a), newRevokeCommand(a))
	return root
}

// noArguments and oneName are cobra.NoArgs and cobra.ExactArgs(1) with the exit code of wrong usage.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("unknown command %q: see %s --help", args[0], cmd.CommandPath())}
}

func oneName(_ *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return usageError{errors.New("want the name of one gateway, such as gateway-1")}
}

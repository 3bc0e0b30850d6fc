// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/smartnat/smartnat/relay/server"
)

// logOptions say what is logged, and how.
type logOptions struct{ level, format string }

func newRootCommand(libraries func(logrus.FieldLogger)) *cobra.Command {
	options := server.NewOptions()
	logging := logOptions{level: "info", format: "text"}
	root := &cobra.Command{
		Use:   "smartnat-relay",
		Short: "Serve Mappings, and the Services and endpoints that they name, to gateways outside the cluster",
		Long: `smartnat-relay runs inside a cluster and serves, over TLS and in the protocol of the Kubernetes API, the cluster's
Mappings and of its Services and EndpointSlices only those that a Mapping names, to be read and not to be changed.
The cluster itself says who a client is (TokenReview, or a client certificate) and what it may read (RBAC).

Every flag can be given as an environment variable: --secure-port is SMARTNAT_RELAY_SECURE_PORT.`,
		Version:       versionText(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := setFromEnvironment(cmd.Flags()); err != nil {
				return usageError{err}
			}
			if err := options.Validate(); err != nil {
				return usageError{err}
			}
			log, err := newLogger(logging, cmd.ErrOrStderr())
			if err != nil {
				return usageError{err}
			}
			libraries(log)
			config, err := options.Config(log)
			if err != nil {
				return err
			}
			relay, err := config.Complete()
			if err != nil {
				return err
			}
			go saveMemory(cmd.Context(), config.Cache.HasSynced)
			return relay.Run(cmd.Context())
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	options.AddFlags(root.Flags())
	root.Flags().StringVar(&logging.level, "log-level", logging.level, "the least `level` that is logged: error, warning, info, debug (each request)")
	root.Flags().StringVar(&logging.format, "log-format", logging.format, "text or json")
	root.AddCommand(newVersionCommand())
	return root
}

// setFromEnvironment gives the flags that the command line leaves out the values that the environment has for them.
func setFromEnvironment(flags *pflag.FlagSet) error {
	env := viper.New()
	env.SetEnvPrefix("SMARTNAT_RELAY")
	env.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	env.AutomaticEnv()
	var errs []error
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed || !env.IsSet(flag.Name) {
			return
		}
		if err := flags.Set(flag.Name, env.GetString(flag.Name)); err != nil {
			errs = append(errs, fmt.Errorf("from the environment: %w", err))
		}
	})
	return errors.Join(errs...)
}

func newLogger(options logOptions, out io.Writer) (*logrus.Logger, error) {
	level, err := logrus.ParseLevel(options.level)
	if err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	log := logrus.New()
	log.SetOutput(out)
	log.SetLevel(level)
	switch options.format {
	case "json":
		log.SetFormatter(newLimited(&logrus.JSONFormatter{}))
	case "text":
		log.SetFormatter(newLimited(&logrus.TextFormatter{}))
	default:
		return nil, fmt.Errorf("--log-format: %q is neither text nor json", options.format)
	}
	return log, nil
}

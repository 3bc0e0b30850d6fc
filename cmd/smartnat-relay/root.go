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

// logOptions are the level and the format of the log.
type logOptions struct{ level, format string }

func newRootCommand(libraries func(logrus.FieldLogger)) *cobra.Command {
	options := server.NewOptions()
	logging := logOptions{level: "info", format: "text"}
	root := &cobra.Command{
		Use:   "smartnat-relay",
		Short: "Serve Mappings, and the Services and EndpointSlices that they name, to gateways outside the cluster",
		Long: `smartnat-relay runs inside a cluster and serves a read-only view of it, over TLS and by the Kubernetes API:
all Mappings, and the Services and EndpointSlices that a valid Mapping names.
The cluster authenticates clients (TokenReview; client certificates as an option) and authorizes them (RBAC).

Each flag can be set by an environment variable: --secure-port by SMARTNAT_RELAY_SECURE_PORT.`,
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
	root.Flags().StringVar(&logging.level, "log-level", logging.level, "minimum `level` to log: error, warning, info, debug (each request)")
	root.Flags().StringVar(&logging.format, "log-format", logging.format, "text or json")
	root.AddCommand(newVersionCommand())
	return root
}

// setFromEnvironment sets the flags that the command line does not set from the environment.
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
			errs = append(errs, fmt.Errorf("environment: %w", err))
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

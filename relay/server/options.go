// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// DefaultAudience is the audience that the tokens of gateways have to be issued for.
const DefaultAudience = "smartnat-relay"

// Options are what the command line says.
type Options struct {
	Kubeconfig     string
	BindAddress    string
	SecurePort     int
	TLSCertFile    string
	TLSKeyFile     string
	ClientCAFile   string
	MinTLSVersion  string
	TokenAudiences []string
	// ReviewCacheTTL is how long the answers of the cluster are remembered, RecheckInterval how often it is asked whether
	// an open watch may go on. What was revoked ends after both and what the cluster itself remembers, ten seconds.
	ReviewCacheTTL  time.Duration
	RecheckInterval time.Duration
	Limits          Limits
	Status          StatusOptions
	// MetricsBindAddress is where metrics are served without TLS, if anywhere.
	MetricsBindAddress string
	History            int
	// ShutdownTimeout is how long requests may take to end.
	ShutdownTimeout time.Duration
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	return &Options{
		BindAddress:     "::",
		SecurePort:      8443,
		MinTLSVersion:   "1.3",
		TokenAudiences:  []string{DefaultAudience},
		ReviewCacheTTL:  10 * time.Second,
		RecheckInterval: 25 * time.Second,
		Limits:          DefaultLimits(),
		Status:          DefaultStatusOptions(),
		History:         watchcache.DefaultHistory,
		ShutdownTimeout: 15 * time.Second,
	}
}

// AddFlags lets the command line change the options.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "how the cluster is reached, a kubeconfig `file`; without it the ServiceAccount of the pod is used")
	flags.StringVar(&o.BindAddress, "bind-address", o.BindAddress, "the `address` that is served on")
	flags.IntVar(&o.SecurePort, "secure-port", o.SecurePort, "the `port` that is served on")
	flags.StringVar(&o.TLSCertFile, "tls-cert-file", o.TLSCertFile, "the `file` of the serving certificate, with the chain of those who signed it; read again when it changes")
	flags.StringVar(&o.TLSKeyFile, "tls-private-key-file", o.TLSKeyFile, "the `file` of the key of the serving certificate; read again when it changes")
	flags.StringVar(&o.ClientCAFile, "client-ca-file", o.ClientCAFile, "the `file` of the authorities whose client certificates are accepted, the common name being the user and the organizations the groups; read again when it changes; without it tokens alone are accepted")
	flags.StringSliceVar(&o.TokenAudiences, "token-audience", o.TokenAudiences, "the `audience` that tokens have to be issued for; may be given several times")
	flags.StringVar(&o.MinTLSVersion, "tls-min-version", o.MinTLSVersion, "the oldest `version` of TLS that is spoken: 1.3 or 1.2")
	flags.DurationVar(&o.ReviewCacheTTL, "review-cache-ttl", o.ReviewCacheTTL, "how long it is remembered what the cluster said of a client")
	flags.DurationVar(&o.RecheckInterval, "recheck-interval", o.RecheckInterval, "how often it is asked whether an open watch may go on")
	flags.StringVar(&o.MetricsBindAddress, "metrics-bind-address", o.MetricsBindAddress, "the `address:port` at which metrics are served to everybody without TLS; nowhere when it is empty")
	o.Limits.addFlags(flags)
	o.Status.addFlags(flags)
	flags.IntVar(&o.History, "history", o.History, "how many `changes` of each kind are kept for watchers that reconnect")
	flags.DurationVar(&o.ShutdownTimeout, "shutdown-timeout", o.ShutdownTimeout, "how long requests may take to end when the relay is told to")
}

// Validate returns all that is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	if net.ParseIP(o.BindAddress) == nil {
		errs = append(errs, fmt.Errorf("--bind-address: %q is not an IP address", o.BindAddress))
	}
	if o.SecurePort < 0 || o.SecurePort > 65535 {
		errs = append(errs, fmt.Errorf("--secure-port: %d is not between 0 and 65535", o.SecurePort))
	}
	if o.TLSCertFile == "" {
		errs = append(errs, errors.New("--tls-cert-file: must be given"))
	}
	if o.TLSKeyFile == "" {
		errs = append(errs, errors.New("--tls-private-key-file: must be given"))
	}
	if len(o.TokenAudiences) == 0 {
		errs = append(errs, errors.New("--token-audience: must be given"))
	}
	if _, err := tlsVersion(o.MinTLSVersion); err != nil {
		errs = append(errs, err)
	}
	if o.ReviewCacheTTL <= 0 || o.ReviewCacheTTL > time.Minute {
		errs = append(errs, fmt.Errorf("--review-cache-ttl: %s is not between 0 and 1m", o.ReviewCacheTTL))
	}
	if o.RecheckInterval <= 0 {
		errs = append(errs, fmt.Errorf("--recheck-interval: %s is not positive", o.RecheckInterval))
	}
	errs = append(errs, o.Limits.validate()...)
	errs = append(errs, o.Status.validate()...)
	if o.MetricsBindAddress != "" {
		if _, _, err := net.SplitHostPort(o.MetricsBindAddress); err != nil {
			errs = append(errs, fmt.Errorf("--metrics-bind-address: %w", err))
		}
	}
	if o.History < 1 {
		errs = append(errs, fmt.Errorf("--history: %d is not positive", o.History))
	}
	return errors.Join(errs...)
}

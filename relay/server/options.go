// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// DefaultAudience is the audience that tokens of gateways must be issued for.
const DefaultAudience = "smartnat-relay"

// Options are the options of the command line.
type Options struct {
	Kubeconfig  string
	BindAddress string
	SecurePort  int
	TLSCertFile string
	TLSKeyFile  string
	// TLSSecret is the name of the Secret with the serving certificate, instead of files. IssueCertificate makes the relay
	// create it.
	TLSSecret        string
	IssueCertificate bool
	ClientCAFile     string
	MinTLSVersion    string
	TokenAudiences   []string
	// TokenLifetime is that of the tokens that gateways renew.
	TokenLifetime time.Duration
	// ReviewCacheTTL is the time for which answers of the API server are cached, RecheckInterval the interval at which
	// open watches are authorized again. A revoked watch ends after at most the sum of both and of the API server's own
	// cache (10 s).
	ReviewCacheTTL  time.Duration
	RecheckInterval time.Duration
	Limits          Limits
	Status          StatusOptions
	// MetricsBindAddress is the address:port of metrics without TLS, or empty.
	MetricsBindAddress string
	History            int
	// ShutdownTimeout is the time that running requests may take to end.
	ShutdownTimeout time.Duration
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	return &Options{
		BindAddress:      "::",
		IssueCertificate: true,
		SecurePort:       8443,
		MinTLSVersion:    "1.3",
		TokenAudiences:   []string{DefaultAudience},
		TokenLifetime:    7 * 24 * time.Hour,
		ReviewCacheTTL:   10 * time.Second,
		RecheckInterval:  25 * time.Second,
		Limits:           DefaultLimits(),
		Status:           DefaultStatusOptions(),
		History:          watchcache.DefaultHistory,
		ShutdownTimeout:  15 * time.Second,
	}
}

// AddFlags binds the options to flags.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "kubeconfig `file` of the cluster; without it the ServiceAccount of the pod is used")
	flags.StringVar(&o.BindAddress, "bind-address", o.BindAddress, "`address` to listen on")
	flags.IntVar(&o.SecurePort, "secure-port", o.SecurePort, "`port` to listen on")
	flags.StringVar(&o.TLSCertFile, "tls-cert-file", o.TLSCertFile, "`file` with the serving certificate and its chain; reloaded when it changes")
	flags.StringVar(&o.TLSKeyFile, "tls-private-key-file", o.TLSKeyFile, "`file` with the key of the serving certificate; reloaded when it changes")
	flags.StringVar(&o.TLSSecret, "tls-secret", o.TLSSecret, "`name` of a Secret in --namespace with the serving certificate, instead of files; read once a minute")
	flags.BoolVar(&o.IssueCertificate, "issue-certificate", o.IssueCertificate, "fill --tls-secret, with a certificate authority of the relay's own, if it is empty, and renew what the relay wrote; a Secret with other content is never written")
	flags.StringVar(&o.ClientCAFile, "client-ca-file", o.ClientCAFile, "`file` with the CA certificates of clients; the common name is the user, the organizations are the groups; reloaded when it changes; without it only tokens are accepted")
	flags.StringSliceVar(&o.TokenAudiences, "token-audience", o.TokenAudiences, "`audience` that tokens must be issued for; may be given several times")
	flags.DurationVar(&o.TokenLifetime, "token-lifetime", o.TokenLifetime, "lifetime of the tokens that gateways renew, for the first audience; the cluster may shorten it")
	flags.StringVar(&o.MinTLSVersion, "tls-min-version", o.MinTLSVersion, "minimum TLS `version`: 1.3 or 1.2")
	flags.DurationVar(&o.ReviewCacheTTL, "review-cache-ttl", o.ReviewCacheTTL, "how long to cache token reviews and access reviews")
	flags.DurationVar(&o.RecheckInterval, "recheck-interval", o.RecheckInterval, "interval at which open watches are authorized again")
	flags.StringVar(&o.MetricsBindAddress, "metrics-bind-address", o.MetricsBindAddress, "`address:port` of the metrics, served without TLS or authentication; empty disables them")
	o.Limits.addFlags(flags)
	o.Status.addFlags(flags)
	flags.IntVar(&o.History, "history", o.History, "number of `changes` of each kind to keep for watchers that reconnect")
	flags.DurationVar(&o.ShutdownTimeout, "shutdown-timeout", o.ShutdownTimeout, "how long running requests may take to end on shutdown")
}

// Validate returns all errors in the options.
func (o *Options) Validate() error {
	var errs []error
	if net.ParseIP(o.BindAddress) == nil {
		errs = append(errs, fmt.Errorf("--bind-address: %q is not an IP address", o.BindAddress))
	}
	if o.SecurePort < 0 || o.SecurePort > 65535 {
		errs = append(errs, fmt.Errorf("--secure-port: %d is not between 0 and 65535", o.SecurePort))
	}
	errs = append(errs, o.validateCertificate()...)
	if len(o.TokenAudiences) == 0 {
		errs = append(errs, errors.New("--token-audience: is required"))
	}
	if o.TokenLifetime < minTokenLifetime || o.TokenLifetime > maxTokenLifetime {
		errs = append(errs, fmt.Errorf("--token-lifetime: %s is not between %s and %s", o.TokenLifetime, minTokenLifetime, maxTokenLifetime))
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

// validateCertificate requires exactly one source of the serving certificate.
func (o *Options) validateCertificate() (errs []error) {
	if o.TLSSecret != "" {
		if o.TLSCertFile != "" || o.TLSKeyFile != "" {
			errs = append(errs, errors.New("--tls-secret: excludes --tls-cert-file and --tls-private-key-file"))
		}
		if len(validation.IsDNS1123Subdomain(o.TLSSecret)) > 0 {
			errs = append(errs, fmt.Errorf("--tls-secret: %q is not the name of a Secret", o.TLSSecret))
		}
		return errs
	}
	if o.TLSCertFile == "" {
		errs = append(errs, errors.New("--tls-cert-file: is required without --tls-secret"))
	}
	if o.TLSKeyFile == "" {
		errs = append(errs, errors.New("--tls-private-key-file: is required without --tls-secret"))
	}
	return errs
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	cryptox509 "crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/cluster"
	"github.com/smartnat/smartnat/relay/status"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// reviewTimeout bounds one TokenReview or SubjectAccessReview.
const reviewTimeout = 10 * time.Second

// Config is the complete configuration of a Server.
type Config struct {
	Listener net.Listener
	// MetricsListener is nil if metrics are not served.
	MetricsListener net.Listener
	// ServingCert is the relay's certificate. ClientCA verifies client certificates; if it is nil, the relay accepts none.
	ServingCert servingCertificate
	ClientCA    *followed[cryptox509.VerifyOptions]
	// MinTLSVersion defaults to TLS 1.3.
	MinTLSVersion uint16
	Authenticator authenticator.Request
	Authorizer    authorizer.UnconditionalAuthorizer
	Audiences     authenticator.Audiences
	// RecheckInterval is the interval at which open watches are authorized again; 0 disables it.
	RecheckInterval time.Duration
	Limits          Limits
	Cache           *watchcache.Cache
	// Metrics is the registry that metrics are registered with; if it is nil, instrument creates one that is not served.
	Metrics *prometheus.Registry
	// Status writes the status of Mappings, Reports accepts what gateways report for it. Each is nil if disabled.
	Status  *statusWriter
	Reports *status.Reports
	// Upstream is the source of the Cache. Gateways, if any are limited to addresses, limits what they see of it.
	Upstream Upstream
	Gateways *gateways
	// Renewals give gateways new tokens; nil gives none.
	Renewals        *renewals
	ShutdownTimeout time.Duration
	// WatchSpread is the part of ShutdownTimeout over which watches end, so that their clients do not reconnect at the
	// same time.
	WatchSpread time.Duration
	Log         logrus.FieldLogger

	metrics *metrics
}

// instrument creates the metrics on the first call.
func (c *Config) instrument() {
	if c.metrics != nil {
		return
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	c.metrics = newMetrics(c.Metrics, c.Cache)
	c.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "certificate_expiration_timestamp_seconds",
		Help: "Unix time of the end of the serving certificate, or 0 before there is one.",
	}, func() float64 {
		if c.ServingCert == nil || !c.ServingCert.ready() { // a Config that does not serve has none
			return 0
		}
		return float64(c.ServingCert.get().Leaf.NotAfter.Unix())
	}))
}

// Config builds a Config: it reads files and opens listeners.
func (o *Options) Config(log logrus.FieldLogger) (*Config, error) {
	clusterConfig, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		if clientcmd.IsEmptyConfig(err) {
			return nil, errors.New("not in a pod of a cluster: --kubeconfig is required")
		}
		return nil, fmt.Errorf("loading the client configuration of the cluster: %w", err)
	}
	// The relay opens few watches, and reviews of clients must not queue behind a client-side rate limit.
	clusterConfig.QPS = -1
	rest.AddUserAgent(clusterConfig, "smartnat-relay")
	client, err := cluster.New(clusterConfig)
	if err != nil {
		return nil, fmt.Errorf("creating the client of the cluster: %w", err)
	}
	c := &Config{
		Audiences:       o.TokenAudiences,
		RecheckInterval: o.RecheckInterval,
		Limits:          o.Limits,
		Cache:           watchcache.New(watchcache.NewEpoch(), o.History),
		Upstream:        upstreamOf(client),
		ShutdownTimeout: o.ShutdownTimeout,
		WatchSpread:     o.ShutdownTimeout * 2 / 3,
		Log:             log,
	}
	c.Gateways = newGateways(c.Cache, serviceAccounts{client.ServiceAccounts(o.Status.Namespace)}, o.Status.Namespace, log)
	c.Renewals = &renewals{request: client.RequestToken(o.Status.Namespace), gateways: c.Gateways, audience: o.TokenAudiences[0], lifetime: o.TokenLifetime, log: log}
	if o.TokenAudiences[0] != DefaultAudience {
		log.WithField("audience", o.TokenAudiences[0]).Warn("renewals need this audience in policy smartnat-tokens")
	}
	c.MinTLSVersion, err = tlsVersion(o.MinTLSVersion)
	if err != nil {
		return nil, err
	}
	c.instrument()
	o.Status.apply(c, client)
	if err := o.readCertificates(c, client.Secrets(o.Status.Namespace)); err != nil {
		return nil, err
	}
	o.delegate(c, client)
	return c, o.listen(c)
}

func (o *Options) listen(c *Config) (err error) {
	c.Listener, err = net.Listen("tcp", net.JoinHostPort(o.BindAddress, strconv.Itoa(o.SecurePort)))
	if err != nil {
		return fmt.Errorf("--bind-address, --secure-port: %w", err)
	}
	if o.MetricsBindAddress == "" {
		return nil
	}
	c.MetricsListener, err = net.Listen("tcp", o.MetricsBindAddress)
	if err != nil {
		return fmt.Errorf("--metrics-bind-address: %w", errors.Join(err, c.Listener.Close()))
	}
	return nil
}

// upstreamOf reads all namespaces.
func upstreamOf(client *cluster.Client) Upstream {
	return func(kind *kinds.Kind) listerWatcher { return client.Of(kind, metav1.NamespaceAll) }
}

// delegate leaves authentication and authorization of clients to the cluster.
func (o *Options) delegate(c *Config, client *cluster.Client) {
	reviewer := newTokenReviewer(client.TokenReviews(), o.TokenAudiences, o.Limits.TokenReviewsPerSecond, c.metrics)
	var clientCA x509.VerifyOptionFunc
	if c.ClientCA != nil {
		clientCA = func() (cryptox509.VerifyOptions, bool) { return *c.ClientCA.get(), true }
	}
	c.Authenticator = newAuthenticator(reviewer, c.Gateways, clientCA, o.ReviewCacheTTL)
	c.Authorizer = newAccessReviewer(client.SubjectAccessReviews(), o.ReviewCacheTTL)
}

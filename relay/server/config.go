// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/tls"
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

	"github.com/smartnat/smartnat/relay/cluster"
	"github.com/smartnat/smartnat/relay/status"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// reviewTimeout bounds one question to the cluster about a client.
const reviewTimeout = 10 * time.Second

// Config is all that a Server is made of.
type Config struct {
	Listener net.Listener
	// MetricsListener may be nil.
	MetricsListener net.Listener
	// ServingCert is what the relay shows of itself, ClientCA what certificates of clients are checked by; without it none is.
	ServingCert *followed[tls.Certificate]
	ClientCA    *followed[cryptox509.VerifyOptions]
	// MinTLSVersion is TLS 1.3 unless it says something else.
	MinTLSVersion uint16
	Authenticator authenticator.Request
	Authorizer    authorizer.UnconditionalAuthorizer
	Audiences     authenticator.Audiences
	// RecheckInterval is how often it is asked whether a watch may go on, never when it is 0.
	RecheckInterval time.Duration
	Limits          Limits
	Cache           *watchcache.Cache
	// Metrics takes what is counted; without it nobody sees that.
	Metrics *prometheus.Registry
	// Status writes what became of Mappings, Reports takes what gateways say of it; nil where that is turned off.
	Status  *statusWriter
	Reports *status.Reports
	// Upstream fills the Cache.
	Upstream        Upstream
	ShutdownTimeout time.Duration
	// WatchSpread is the part of it over which watches end, so that their clients do not all come back at once.
	WatchSpread time.Duration
	Log         logrus.FieldLogger

	metrics *metrics
}

// instrument makes what is counted, once.
func (c *Config) instrument() {
	if c.metrics != nil {
		return
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	c.metrics = newMetrics(c.Metrics, c.Cache)
}

// Config opens what the options name.
func (o *Options) Config(log logrus.FieldLogger) (*Config, error) {
	clusterConfig, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	// Watches are few; the questions about clients must not queue behind a limit of our own.
	clusterConfig.QPS = -1
	rest.AddUserAgent(clusterConfig, "smartnat-relay")
	client, err := cluster.New(clusterConfig)
	if err != nil {
		return nil, fmt.Errorf("client of the cluster: %w", err)
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
	c.MinTLSVersion, err = tlsVersion(o.MinTLSVersion)
	if err != nil {
		return nil, err
	}
	c.instrument()
	o.Status.apply(c, client)
	if err := o.readCertificates(c); err != nil {
		return nil, err
	}
	o.delegate(c, client)
	return c, o.listen(c)
}

func (o *Options) listen(c *Config) (err error) {
	c.Listener, err = net.Listen("tcp", net.JoinHostPort(o.BindAddress, strconv.Itoa(o.SecurePort)))
	if err != nil {
		return fmt.Errorf("listening: %w", err)
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
	return Upstream{
		Mappings:       client.Mappings(metav1.NamespaceAll),
		Services:       client.Services(metav1.NamespaceAll),
		EndpointSlices: client.EndpointSlices(metav1.NamespaceAll),
	}
}

// delegate leaves it to the cluster who a client is and what it may do.
func (o *Options) delegate(c *Config, client *cluster.Client) {
	reviewer := newTokenReviewer(client.TokenReviews(), o.TokenAudiences, o.Limits.TokenReviewsPerSecond, c.metrics)
	var clientCA x509.VerifyOptionFunc
	if c.ClientCA != nil {
		clientCA = func() (cryptox509.VerifyOptions, bool) { return *c.ClientCA.get(), true }
	}
	c.Authenticator = newAuthenticator(reviewer, clientCA, o.ReviewCacheTTL)
	c.Authorizer = newAccessReviewer(client.SubjectAccessReviews(), o.ReviewCacheTTL)
}

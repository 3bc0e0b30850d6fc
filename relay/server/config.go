// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/relay/watchcache"
)

const (
	// reviewTimeout bounds one question to the cluster about a client.
	reviewTimeout = 10 * time.Second
	// The answers are remembered so long. What was revoked is refused after the longer of the two.
	tokenCacheTTL, allowCacheTTL, denyCacheTTL = 10 * time.Second, 10 * time.Second, 10 * time.Second
)

// Config is all that a Server is made of.
type Config struct {
	Listener      net.Listener
	ServingCert   dynamiccertificates.CertKeyContentProvider
	ClientCA      dynamiccertificates.CAContentProvider
	Authenticator authenticator.Request
	Authorizer    authorizer.UnconditionalAuthorizer
	Audiences     authenticator.Audiences
	Cache         *watchcache.Cache
	// Upstream fills the Cache.
	Upstream        Upstream
	ShutdownTimeout time.Duration
	Log             logrus.FieldLogger
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
	client, err := kubernetes.NewForConfig(clusterConfig)
	if err != nil {
		return nil, fmt.Errorf("client of the cluster: %w", err)
	}
	mappings, err := versioned.NewForConfig(clusterConfig)
	if err != nil {
		return nil, fmt.Errorf("client of the cluster: %w", err)
	}
	c := &Config{
		Audiences:       o.TokenAudiences,
		Cache:           watchcache.New(watchcache.NewEpoch(), o.History),
		Upstream:        Upstream{Core: client, SmartNat: mappings},
		ShutdownTimeout: o.ShutdownTimeout,
		Log:             log,
	}
	if err := o.readCertificates(c); err != nil {
		return nil, err
	}
	if err := c.delegate(client); err != nil {
		return nil, err
	}
	c.Listener, err = net.Listen("tcp", net.JoinHostPort(o.BindAddress, strconv.Itoa(o.SecurePort)))
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return c, nil
}

func (o *Options) readCertificates(c *Config) error {
	serving, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving", o.TLSCertFile, o.TLSKeyFile)
	if err != nil {
		return fmt.Errorf("--tls-cert-file, --tls-private-key-file: %w", err)
	}
	c.ServingCert = serving
	if o.ClientCAFile == "" {
		return nil
	}
	clientCA, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", o.ClientCAFile)
	if err != nil {
		return fmt.Errorf("--client-ca-file: %w", err)
	}
	c.ClientCA = clientCA
	return nil
}

// delegate leaves it to the cluster who a client is and what it may do.
func (c *Config) delegate(client kubernetes.Interface) error {
	backoff := &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 4}
	var err error
	c.Authenticator, _, err = authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient:            client.AuthenticationV1(),
		TokenAccessReviewTimeout:           reviewTimeout,
		WebhookRetryBackoff:                backoff,
		CacheTTL:                           tokenCacheTTL,
		ClientCertificateCAContentProvider: c.ClientCA,
		APIAudiences:                       c.Audiences,
	}.New()
	if err != nil {
		return fmt.Errorf("authentication: %w", err)
	}
	c.Authorizer, err = authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(),
		AllowCacheTTL:             allowCacheTTL,
		DenyCacheTTL:              denyCacheTTL,
		WebhookRetryBackoff:       backoff,
	}.New()
	if err != nil {
		return fmt.Errorf("authorization: %w", err)
	}
	return nil
}

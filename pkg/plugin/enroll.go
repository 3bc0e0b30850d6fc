// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/pkg/enroll"
)

const (
	// gatewayLabel marks the ServiceAccounts and bindings of gateways.
	gatewayLabel = "smartnat.aureacentral.com/gateway"
	gatewayRole  = "smartnat-gateway"
	relayService = "smartnat-relay"
	relaySecret  = "smartnat-relay-tls"
	// audience is what makes a token of no use at the cluster's own API.
	audience = "smartnat-relay"
	// maxDuration is less than the time for which a relay announces its next authority: a gateway that knows none would be
	// locked out (relay/issuer).
	maxDuration = 2 * 365 * 24 * time.Hour
	minDuration = 10 * time.Minute // the API server's minimum
	// maxServers is the number of nodes whose port of the relay a gateway knows. Each leads to every replica.
	maxServers = 3
	// maxNodes bounds the size of a bundle.
	maxNodes = 1000
)

// ErrNoCertificate is the error of Enroll while the relay is installed, but has not made its certificate.
var ErrNoCertificate = errors.New("the relay has no certificate yet")

// AllAddresses lifts the limit of an enrollment to addresses.
const AllAddresses = "all"

// Enrollment enrolls and revokes gateways.
type Enrollment struct {
	Client dynamic.Interface
	// Namespace is that of the relay.
	Namespace string
	Gateway   string
	// Duration is the lifetime of the token, until which smartnatd has to take it and renew it; the cluster may shorten it.
	Duration time.Duration
	// Addresses are what the gateway may see (validation.ParseEnrolled), AllAddresses, or empty to leave that as it is: everything, for
	// a new gateway.
	Addresses string
	// Node is the name of the node of the cluster that the gateway is, or empty. The relay tells a node which node each endpoint is on.
	Node string
	// Servers and ServerName replace what is found in the cluster. CertificateAuthority is PEM.
	Servers              []string
	ServerName           string
	CertificateAuthority string
	// ServiceNetworks replace those of the cluster's ServiceCIDRs.
	ServiceNetworks []netip.Prefix
}

// Validate returns an error if the options are wrong. No request is needed for that.
func (e *Enrollment) Validate() error {
	if err := enroll.ValidName(e.Gateway); err != nil {
		return err
	}
	if e.Addresses != "" && e.Addresses != AllAddresses {
		if _, err := validation.ParseEnrolled(e.Addresses); err != nil {
			return fmt.Errorf("addresses: %w", err)
		}
	}
	if e.Duration < minDuration || e.Duration > maxDuration {
		return fmt.Errorf("--duration: %s is not between 10m and 17520h: a gateway learns a new authority of the relay only with a new credential", e.Duration)
	}
	return nil
}

// Enroll creates the account of the gateway, or brings it to what it would create, and returns a bundle with a new token. All earlier tokens
// of the gateway end once that is certain. A bundle that comes with an error is in force; the error is about what is left of earlier ones.
func (e *Enrollment) Enroll(ctx context.Context) (*enroll.Bundle, error) {
	b := &enroll.Bundle{Gateway: e.Gateway, Node: e.Node, Relay: enroll.Relay{
		Servers: e.Servers, ServerName: cmp.Or(e.ServerName, relayService+"."+e.Namespace+".svc"), CertificateAuthority: e.CertificateAuthority,
	}}
	// Everything that can be missing is read before anything is created.
	known, err := e.nodes(ctx)
	if err != nil {
		return nil, err
	}
	if e.Node != "" {
		if _, found, err := get[corev1.Node](ctx, e.Client.Resource(nodes), e.Node); err != nil || !found {
			return nil, cmp.Or(err, fmt.Errorf("--node: the cluster has no node %.100q: want a name that kubectl get nodes shows", e.Node))
		}
	}
	b.Cluster.Nodes = nodesOf(known)
	if b.Cluster.ServiceNetworks, err = e.serviceNetworks(ctx); err != nil {
		return nil, err
	}
	if len(b.Relay.Servers) == 0 {
		if b.Relay.Servers, err = e.servers(ctx, b.Cluster.Nodes); err != nil {
			return nil, err
		}
	}
	if b.Relay.CertificateAuthority == "" {
		if b.Relay.CertificateAuthority, err = e.authority(ctx); err != nil {
			return nil, err
		}
	}
	if err := e.account(ctx); err != nil {
		return nil, err
	}
	if err := e.renewable(ctx); err != nil {
		return nil, err
	}
	done, err := e.bind(ctx, b)
	if !done {
		return nil, err
	}
	return b, err
}

func (e *Enrollment) token(ctx context.Context, bound *authenticationv1.BoundObjectReference) (token string, expires time.Time, err error) {
	seconds := int64(e.Duration / time.Second)
	request, err := create(ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace), &authenticationv1.TokenRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		ObjectMeta: metav1.ObjectMeta{Name: e.Gateway, Namespace: e.Namespace},
		Spec:       authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds, BoundObjectRef: bound},
	}, "token")
	if err != nil {
		return "", time.Time{}, fmt.Errorf("requesting a token of the ServiceAccount %s/%s: %w", e.Namespace, e.Gateway, err)
	}
	if !slices.Equal(request.Spec.Audiences, []string{audience}) {
		return "", time.Time{}, fmt.Errorf("the cluster made a token for the audiences %q, want only %s", request.Spec.Audiences, audience)
	}
	return request.Status.Token, request.Status.ExpirationTimestamp.Time, nil
}

// Revoke deletes all objects of the gateway. The relay refuses the gateway within a minute.
func (e *Enrollment) Revoke(ctx context.Context) error {
	if err := e.owned(ctx); err != nil {
		return err
	}
	all, err := e.enrollments(ctx)
	if err != nil {
		return err
	}
	if err := e.remove(ctx, all); err != nil {
		return err
	}
	// The account goes last: if the first deletion succeeds and the second fails, owned still recognizes it.
	for _, d := range []struct {
		kind, name string
		from       dynamic.ResourceInterface
	}{
		{"ClusterRoleBinding", e.binding(), e.Client.Resource(bindings)},
		{"RoleBinding", e.binding(), e.Client.Resource(roleBindings).Namespace(e.Namespace)},
		{"Role", e.binding(), e.Client.Resource(roles).Namespace(e.Namespace)},
		{"ServiceAccount", e.Gateway, e.Client.Resource(serviceAccounts).Namespace(e.Namespace)},
	} {
		if err := d.from.Delete(ctx, d.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting the %s %s: %w", d.kind, d.name, err)
		}
	}
	return nil
}

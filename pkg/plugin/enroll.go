// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
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
// of the gateway end.
func (e *Enrollment) Enroll(ctx context.Context) (*enroll.Bundle, error) {
	b := &enroll.Bundle{Gateway: e.Gateway, Relay: enroll.Relay{
		Servers: e.Servers, ServerName: cmp.Or(e.ServerName, relayService+"."+e.Namespace+".svc"), CertificateAuthority: e.CertificateAuthority,
	}}
	// Everything that can be missing is read before anything is created.
	nodes, err := e.nodes(ctx)
	if err != nil {
		return nil, err
	}
	b.Cluster.Nodes = nodesOf(nodes)
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
	bound, err := e.bind(ctx)
	if err != nil {
		return nil, err
	}
	b.Relay.Token, b.Expires, err = e.token(ctx, bound)
	return b, err
}

// nodes reads the nodes by name, those that are ready first.
func (e *Enrollment) nodes(ctx context.Context) ([]corev1.Node, error) {
	all, err := list[corev1.Node](ctx, e.Client.Resource(nodes))
	if err != nil {
		return nil, fmt.Errorf("reading the nodes: %w", err)
	}
	notReady := func(n corev1.Node) int {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				return 1
			}
		}
		return 0
	}
	slices.SortFunc(all, func(a, b corev1.Node) int {
		return cmp.Or(cmp.Compare(notReady(a), notReady(b)), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(len(all), maxNodes)], nil
}

// nodesOf keeps the addresses and networks that can be parsed.
func nodesOf(all []corev1.Node) []enroll.Node {
	var found []enroll.Node
	for _, n := range all {
		var node enroll.Node
		for _, a := range n.Status.Addresses {
			if address, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				node.Addresses = append(node.Addresses, address)
			}
		}
		for _, text := range n.Spec.PodCIDRs {
			if network, err := netip.ParsePrefix(text); err == nil {
				node.PodNetworks = append(node.PodNetworks, network.Masked())
			}
		}
		if len(node.Addresses) > 0 {
			found = append(found, node)
		}
	}
	return found
}

// serviceNetworks reads the ServiceCIDRs, which clusters before 1.33 do not have.
func (e *Enrollment) serviceNetworks(ctx context.Context) ([]netip.Prefix, error) {
	if len(e.ServiceNetworks) > 0 {
		return e.ServiceNetworks, nil
	}
	all, err := list[networkingv1.ServiceCIDR](ctx, e.Client.Resource(serviceCIDRs))
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading the ServiceCIDRs: %w (name the range of ClusterIPs by --service-network)", err)
	}
	var networks []netip.Prefix
	for _, c := range all {
		for _, text := range c.Spec.CIDRs {
			network, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("reading the ServiceCIDR %s: %w", c.Name, err)
			}
			networks = append(networks, network.Masked())
		}
	}
	slices.SortFunc(networks, netip.Prefix.Compare)
	return slices.Compact(networks), nil
}

// servers returns the URLs of the relay's load balancer, or of its port on the nodes.
func (e *Enrollment) servers(ctx context.Context, nodes []enroll.Node) ([]string, error) {
	service, found, err := get[corev1.Service](ctx, e.Client.Resource(services).Namespace(e.Namespace), relayService)
	if err != nil {
		return nil, fmt.Errorf("reading the Service %s/%s: %w", e.Namespace, relayService, err)
	}
	if !found || len(service.Spec.Ports) == 0 {
		return nil, fmt.Errorf("the relay is not installed: the namespace %s has no Service %s", e.Namespace, relayService)
	}
	var hosts []string
	port := service.Spec.Ports[0].NodePort
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer {
		port = service.Spec.Ports[0].Port
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			hosts = append(hosts, cmp.Or(ingress.IP, ingress.Hostname))
		}
	} else {
		for _, n := range nodes[:min(len(nodes), maxServers)] {
			for _, a := range n.Addresses {
				// A Service of one family has no port at nodes' addresses of the other.
				if slices.Contains(service.Spec.IPFamilies, familyOf(a)) {
					hosts = append(hosts, a.String())
				}
			}
		}
	}
	if len(hosts) == 0 || port == 0 {
		return nil, errors.New("found no address of the relay from outside: name it, as in --server https://10.10.0.11:30443")
	}
	var urls []string
	for _, host := range hosts {
		urls = append(urls, "https://"+net.JoinHostPort(host, strconv.Itoa(int(port))))
	}
	return urls, nil
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// authority reads the authority of the relay's certificate.
func (e *Enrollment) authority(ctx context.Context) (string, error) {
	secret, found, err := get[corev1.Secret](ctx, e.Client.Resource(secrets).Namespace(e.Namespace), relaySecret)
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the Secret %s/%s: %w", e.Namespace, relaySecret, err)
	case !found:
		return "", fmt.Errorf("the relay is not installed: the Secret %s/%s does not exist", e.Namespace, relaySecret)
	case len(secret.Data) == 0:
		return "", fmt.Errorf("%w: the Secret %s/%s is empty; is the relay running?", ErrNoCertificate, e.Namespace, relaySecret)
	case len(secret.Data["ca.crt"]) == 0:
		return "", fmt.Errorf("the Secret %s/%s has no ca.crt: name the authority of the relay's certificate by --certificate-authority", e.Namespace, relaySecret)
	}
	return string(secret.Data["ca.crt"]), nil
}

// labels mark the objects of this gateway.
func (e *Enrollment) labels() map[string]string {
	return map[string]string{"app.kubernetes.io/part-of": "smartnat", gatewayLabel: e.Gateway}
}

// account creates the ServiceAccount and its binding.
func (e *Enrollment) account(ctx context.Context) error {
	if err := e.owned(ctx); err != nil {
		return err
	}
	mount := false
	accounts := e.Client.Resource(serviceAccounts).Namespace(e.Namespace)
	if err := settle(ctx, accounts, e.Gateway, &corev1.ServiceAccount{
		TypeMeta:                     metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta:                   metav1.ObjectMeta{Name: e.Gateway, Namespace: e.Namespace, Labels: e.labels(), Annotations: e.annotations()},
		AutomountServiceAccountToken: &mount,
	}); err != nil {
		return err
	}
	if err := e.limit(ctx, accounts); err != nil {
		return fmt.Errorf("limiting the ServiceAccount %s/%s to addresses: %w", e.Namespace, e.Gateway, err)
	}
	return settle(ctx, e.Client.Resource(bindings), e.Gateway, &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: e.binding(), Labels: e.labels()},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: gatewayRole},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: e.Gateway, Namespace: e.Namespace}},
	})
}

// annotations returns what limits the account to addresses, spelled in one way.
func (e *Enrollment) annotations() map[string]string {
	enrolled, err := validation.ParseEnrolled(e.Addresses)
	if err != nil { // all, or as before
		return nil
	}
	return map[string]string{v1alpha1.AddressesAnnotation: enrolled.String()}
}

// limit changes what an existing account may see, if Addresses says so.
func (e *Enrollment) limit(ctx context.Context, accounts dynamic.ResourceInterface) error {
	if e.Addresses == "" {
		return nil
	}
	// In a merge patch, null removes the annotation.
	addresses := map[string]any{v1alpha1.AddressesAnnotation: nil}
	for name, value := range e.annotations() {
		addresses[name] = value
	}
	return annotate(ctx, accounts, e.Gateway, addresses)
}

func annotate(ctx context.Context, in dynamic.ResourceInterface, name string, annotations map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	_, err = in.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// Limit changes what an enrolled gateway may see, to Addresses. Its credentials stay.
func (e *Enrollment) Limit(ctx context.Context) error {
	if err := e.owned(ctx); err != nil {
		return err
	}
	err := e.limit(ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace))
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("gateway %s is not enrolled: the ServiceAccount %s/%[1]s does not exist", e.Gateway, e.Namespace)
	}
	return err
}

// renewable lets the gateway ask for tokens of its own account, and the relay make them, by a Role of this account alone. A relay cannot
// make tokens of other accounts, such as its own.
func (e *Enrollment) renewable(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: e.binding(), Namespace: e.Namespace, Labels: e.labels()}
	role := &rbacv1.Role{
		TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"}, ObjectMeta: meta,
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{e.Gateway}, Verbs: []string{"create"}}},
	}
	binding := &rbacv1.RoleBinding{
		TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"}, ObjectMeta: meta,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{
			{Kind: "ServiceAccount", Name: e.Gateway, Namespace: e.Namespace}, {Kind: "ServiceAccount", Name: relayService, Namespace: e.Namespace},
		},
	}
	if err := settle(ctx, e.Client.Resource(roles).Namespace(e.Namespace), e.Gateway, role); err != nil {
		return err
	}
	return settle(ctx, e.Client.Resource(roleBindings).Namespace(e.Namespace), e.Gateway, binding)
}

// bind replaces the Secret to which tokens of the gateway are bound, which ends all earlier ones.
func (e *Enrollment) bind(ctx context.Context) (*authenticationv1.BoundObjectReference, error) {
	in := e.Client.Resource(secrets).Namespace(e.Namespace)
	existing, found, err := get[corev1.Secret](ctx, in, e.binding())
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the Secret %s/%s: %w", e.Namespace, e.binding(), err)
	case found && existing.Labels[gatewayLabel] != e.Gateway:
		return nil, fmt.Errorf("the Secret %s/%s exists and does not belong to a gateway %s: delete it, or choose another name", e.Namespace, e.binding(), e.Gateway)
	case found:
		if err := in.Delete(ctx, existing.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(existing.UID))}); err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("deleting the Secret %s/%s: %w", e.Namespace, e.binding(), err)
		}
	}
	immutable := true
	secret, err := create(ctx, in, &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: e.binding(), Namespace: e.Namespace, Labels: e.labels()},
		Type:       corev1.SecretTypeOpaque, Immutable: &immutable,
	})
	if err != nil {
		return nil, fmt.Errorf("creating the Secret %s/%s: %w", e.Namespace, e.binding(), err)
	}
	err = annotate(ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace), e.Gateway, map[string]any{v1alpha1.EnrollmentAnnotation: string(secret.UID)})
	if err != nil {
		return nil, fmt.Errorf("binding the ServiceAccount %s/%s to the Secret %s: %w", e.Namespace, e.Gateway, secret.Name, err)
	}
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: secret.Name, UID: secret.UID}, nil
}

func (e *Enrollment) binding() string { return gatewayRole + "-" + e.Gateway }

// owned fails if the ServiceAccount exists and is not one of a gateway.
func (e *Enrollment) owned(ctx context.Context) error {
	account, found, err := get[corev1.ServiceAccount](ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace), e.Gateway)
	if err == nil && found && account.Labels[gatewayLabel] != e.Gateway {
		err = fmt.Errorf("the ServiceAccount %s of the namespace %s does not belong to a gateway: choose another name", e.Gateway, e.Namespace)
	}
	return err
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
	// The account goes last: if the first deletion succeeds and the second fails, owned still recognizes it.
	for _, d := range []struct {
		kind, name string
		from       dynamic.ResourceInterface
	}{
		{"Secret", e.binding(), e.Client.Resource(secrets).Namespace(e.Namespace)},
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

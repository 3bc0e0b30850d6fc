// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/smartnat/smartnat/pkg/enroll"
)

// nodes reads the nodes by name, those that are ready first.
func (e *Enrollment) nodes(ctx context.Context) ([]corev1.Node, error) {
	all, err := list[corev1.Node](ctx, e.Client.Resource(nodes), "")
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
	all, err := list[networkingv1.ServiceCIDR](ctx, e.Client.Resource(serviceCIDRs), "")
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

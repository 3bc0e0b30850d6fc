// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// The version and kind of a Bundle.
const (
	Version = "smartnat.aureacentral.com/v1alpha1"
	Kind    = "GatewayBundle"
)

// MaxSize is the maximum size of a Bundle in bytes.
const MaxSize = 1 << 20

// Bundle is all that a host needs to become a gateway of a cluster. It holds a credential.
type Bundle struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Gateway is the name of the gateway in the cluster.
	Gateway string `json:"gateway"`
	// Node is the name of the node of the cluster that the host is, or empty.
	Node string `json:"node,omitempty"`
	// Expires is when the token ends.
	Expires time.Time `json:"expires"`
	Relay   Relay     `json:"relay"`
	Cluster Cluster   `json:"cluster"`
}

// Relay says how to reach and authenticate to the relay.
type Relay struct {
	// Servers are https URLs of the relay.
	Servers []string `json:"servers"`
	// ServerName is the name in the relay's certificate.
	ServerName string `json:"serverName"`
	// CertificateAuthority has the PEM certificates of the authorities of that certificate.
	CertificateAuthority string `json:"certificateAuthority"`
	// Token is a bearer token that only the relay accepts.
	Token string `json:"token"`
}

// Cluster has the networks of the cluster at the time of the enrollment.
type Cluster struct {
	// ServiceNetworks are the ranges of ClusterIPs.
	ServiceNetworks []netip.Prefix `json:"serviceNetworks,omitempty"`
	Nodes           []Node         `json:"nodes,omitempty"`
}

// Node has the addresses of a node in the cluster's network, and the networks of its pods.
type Node struct {
	Addresses   []netip.Addr   `json:"addresses"`
	PodNetworks []netip.Prefix `json:"podNetworks,omitempty"`
}

// Limits on the lists of a Bundle.
const (
	maxServers  = 16
	maxNetworks = 16
)

var (
	gatewayName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$`)
	serverURL   = regexp.MustCompile(`^https://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$`)
	// A token of a ServiceAccount is a JSON Web Signature in compact form (RFC 7515, section 3.1).
	bearerToken = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}$`)
)

// ValidName returns an error if a gateway cannot have that name.
func ValidName(name string) error {
	if gatewayName.MatchString(name) {
		return nil
	}
	return fmt.Errorf("%.100q is not the name of a gateway: use up to 42 lower-case letters, digits and dashes", name)
}

// Marshal returns the bundle as YAML.
func (b *Bundle) Marshal() ([]byte, error) {
	b.APIVersion, b.Kind = Version, Kind
	if err := b.validate(); err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("writing the bundle: %w", err)
	}
	header := fmt.Sprintf("# The credential of gateway %s until %s: keep it secret. On the host: smartnatd enroll FILE\n",
		b.Gateway, b.Expires.UTC().Format(time.RFC3339))
	return append([]byte(header), text...), nil
}

// Parse reads a bundle and refuses what a host must not use. Errors quote no more than names, never the token.
func Parse(text []byte) (*Bundle, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("the bundle is larger than %d bytes: it is no output of kubectl smartnat enroll", MaxSize)
	}
	var header struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	const wanted = "want the output of kubectl smartnat enroll"
	if err := yaml.Unmarshal(text, &header); err != nil {
		return nil, errors.New("the bundle is not YAML: " + wanted) // a parser's error may quote the token
	}
	if header.Kind != Kind {
		return nil, fmt.Errorf("the bundle is of kind %.40q, not %s: %s", header.Kind, Kind, wanted)
	}
	if header.APIVersion != Version {
		return nil, fmt.Errorf("the bundle has version %.60q, and this smartnatd knows %s: use the same release of kubectl-smartnat and smartnatd", header.APIVersion, Version)
	}
	b := &Bundle{}
	if err := yaml.UnmarshalStrict(text, b); err != nil {
		return nil, fmt.Errorf("the bundle has a field that is unknown, written twice or of a wrong type: %s, from the same release as this smartnatd", wanted)
	}
	if err := b.validate(); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Bundle) validate() error {
	if err := ValidName(b.Gateway); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if b.Node != "" && len(validation.IsDNS1123Subdomain(b.Node)) > 0 {
		return fmt.Errorf("node: %.100q is not the name of a node", b.Node)
	}
	if b.Expires.IsZero() {
		return errors.New("expires: is required")
	}
	if n := len(b.Relay.Servers); n == 0 || n > maxServers {
		return fmt.Errorf("relay.servers: has %d URLs, want 1 to %d", n, maxServers)
	}
	for _, server := range b.Relay.Servers {
		if u, err := url.Parse(server); err != nil || !serverURL.MatchString(server) || u.Port() == "" {
			return fmt.Errorf("relay.servers: %.100q is not https://HOST:PORT", server)
		}
	}
	if len(validation.IsDNS1123Subdomain(b.Relay.ServerName)) > 0 && !isAddress(b.Relay.ServerName) {
		return fmt.Errorf("relay.serverName: %.100q is neither a DNS name nor an address", b.Relay.ServerName)
	}
	if !bearerToken.MatchString(b.Relay.Token) {
		return errors.New("relay.token: is not the token of a ServiceAccount")
	}
	authorities, err := certificates(b.Relay.CertificateAuthority)
	if err != nil {
		return fmt.Errorf("relay.certificateAuthority: %w", err)
	}
	b.Relay.CertificateAuthority = authorities
	return b.Cluster.validate()
}

func isAddress(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

func (c *Cluster) validate() error {
	if len(c.ServiceNetworks) > maxNetworks {
		return fmt.Errorf("cluster.serviceNetworks: has %d networks, want at most %d", len(c.ServiceNetworks), maxNetworks)
	}
	for _, n := range c.ServiceNetworks {
		if err := validNetwork(n); err != nil {
			return fmt.Errorf("cluster.serviceNetworks: %w", err)
		}
	}
	for _, node := range c.Nodes {
		for _, a := range node.Addresses {
			if !a.IsGlobalUnicast() || a.Zone() != "" || a.Is4In6() {
				return fmt.Errorf("cluster.nodes: %s is not the address of a node", a)
			}
		}
		for _, n := range node.PodNetworks {
			if err := validNetwork(n); err != nil {
				return fmt.Errorf("cluster.nodes: %w", err)
			}
		}
	}
	return nil
}

// validNetwork refuses networks that would take over routes of the host.
func validNetwork(n netip.Prefix) error {
	least := 8
	if n.Addr().Is6() {
		least = 32
	}
	switch {
	case !n.IsValid() || n != n.Masked() || n.Addr().Is4In6():
		return fmt.Errorf("%s is not a network", n)
	case n.Bits() < least:
		return fmt.Errorf("%s is too large for a network of a cluster: want at least /%d", n, least)
	case !n.Addr().IsGlobalUnicast():
		return fmt.Errorf("%s is not a network of a cluster", n)
	}
	return nil
}

// certificates returns the certificates of a PEM text, and nothing else of it.
func certificates(text string) (string, error) {
	var out bytes.Buffer
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("has a PEM block of type %.40q, want only CERTIFICATE", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("has a certificate that is not valid: %w", err)
		}
		if err := pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return "", err
		}
	}
	if out.Len() == 0 || strings.TrimSpace(string(rest)) != "" {
		return "", errors.New("is not a list of PEM certificates")
	}
	return out.String(), nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// RelaySource is the part of /etc/smartnat.yaml with which the lab's gateway finds the relay. GrantGateway writes the files
// that it names.
const RelaySource = `source:
  relay:
    servers: ["https://10.10.0.11:8443"]
    serverName: smartnat-relay.smartnat.svc
    caFile: /etc/smartnat/ca.crt
    tokenFile: /etc/smartnat/token
`

// GatewayConfig is an /etc/smartnat.yaml for the lab's gateway.
const GatewayConfig = RelaySource + `uplinks:
- {interface: eth1, gateway: 198.51.100.1}
- {interface: eth2, gateway: 203.0.113.1}
serviceRoutes:
- {destination: 10.96.0.0/16, via: [10.10.0.11, 10.10.0.12]}
`

// DualStackConfig is GatewayConfig with IPv6.
const DualStackConfig = RelaySource + `uplinks:
- {interface: eth1, gateways: [198.51.100.1, "2001:db8:1::1"]}
- {interface: eth2, gateways: [203.0.113.1, "2001:db8:2::1"]}
serviceRoutes:
- {destination: 10.96.0.0/16, via: [10.10.0.11, 10.10.0.12]}
- {destination: "fd00:96::/108", via: ["fd00:10::11", "fd00:10::12"]}
`

const (
	gatewayConfigFile = "/etc/smartnat.yaml"
	relayName         = "smartnat-relay.smartnat.svc"
)

// ApplyRelay applies the relay's manifests. No controller in the lab creates pods of the Deployment; StartRelay runs the
// relay instead.
func (l *Lab) ApplyRelay(ctx context.Context) (string, error) {
	return l.Kubectl(ctx, "apply", "-k", filepath.Join(l.repo, "relay/manifests"))
}

// ApplyNodes applies the manifests of smartnatd on nodes, which need those of the relay.
func (l *Lab) ApplyNodes(ctx context.Context) (string, error) {
	return l.Kubectl(ctx, "apply", "-k", filepath.Join(l.repo, "relay/manifests/nodes"))
}

// StartRelay applies the manifests and starts the relay on node1 with the rights of its ServiceAccount. It returns when the
// relay is ready.
func (l *Lab) StartRelay(ctx context.Context, flags ...string) (*Process, error) {
	return l.StartRelayOn(ctx, Node1, flags...)
}

// StartRelayOn is like StartRelay on a given node, to add a replica.
func (l *Lab) StartRelayOn(ctx context.Context, node string, flags ...string) (*Process, error) {
	if err := l.ApplyCRDs(ctx); err != nil {
		return nil, err
	}
	if _, err := l.ApplyRelay(ctx); err != nil {
		return nil, err
	}
	program, err := l.program("smartnat-relay")
	if err != nil {
		return nil, err
	}
	token, err := l.token(ctx, "smartnat-relay")
	if err != nil {
		return nil, err
	}
	files, address := "smartnat-relay-"+node, l.nodes[node].addresses[0]
	if err := writeKubeconfig(kubeconfigFile(files), apiServer, clientcmdapi.AuthInfo{Token: token}); err != nil {
		return nil, err
	}
	if err := l.authority.issue(files, identity{user: "smartnat-relay", names: []string{relayName, address}}); err != nil {
		return nil, err
	}
	return l.Host(node).start(ctx, command{
		name: "smartnat-relay",
		argv: append([]string{program, "--kubeconfig=" + kubeconfigFile(files), "--secure-port=8443",
			"--tls-cert-file=" + certFile(files), "--tls-private-key-file=" + keyFile(files)}, flags...),
		ready: func(ctx context.Context) error { return l.relayReady(ctx, node, "https://"+address+":8443") },
	})
}

func (l *Lab) relayReady(ctx context.Context, node, relayURL string) error {
	roots := x509.NewCertPool()
	roots.AddCert(l.authority.certificate)
	client := l.Host(node).HTTPClient()
	client.Timeout = patience
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: relayName}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, relayURL+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s/readyz: %s", relayURL, response.Status)
	}
	return nil
}

// GrantGateway creates a ServiceAccount for the gateway that may read what the relay serves, and writes its token and the
// relay's certificate authority to /etc/smartnat. The relay's manifests must have been applied.
func (l *Lab) GrantGateway(ctx context.Context) error {
	return l.GrantGatewayOn(ctx, Gateway, "gateway-1")
}

// GrantGatewayOn is like GrantGateway on another host, for another gateway.
func (l *Lab) GrantGatewayOn(ctx context.Context, host, name string) error {
	for _, args := range [][]string{
		{"create", "serviceaccount", name, "--namespace=smartnat"},
		{"create", "clusterrolebinding", "smartnat-" + name, "--clusterrole=smartnat-gateway", "--serviceaccount=smartnat:" + name},
	} {
		if _, err := l.Kubectl(ctx, args...); err != nil && !strings.Contains(err.Error(), "already exists") {
			return err
		}
	}
	token, err := l.token(ctx, name, "--audience=smartnat-relay")
	if err != nil {
		return err
	}
	gateway := l.Host(host)
	ca, err := gateway.ReadFile(caFile)
	if err != nil {
		return err
	}
	return errors.Join(gateway.WriteFile("/etc/smartnat/token", token), gateway.WriteFile("/etc/smartnat/ca.crt", ca))
}

// token requests a token for a ServiceAccount in SmartNat's namespace.
func (l *Lab) token(ctx context.Context, account string, flags ...string) (string, error) {
	output, err := l.Kubectl(ctx, append([]string{"create", "token", account, "--namespace=smartnat", "--duration=24h"}, flags...)...)
	return strings.TrimSpace(output), err
}

// StartGateway writes /etc/smartnat.yaml on the gateway and starts smartnatd as its unit does, with env added to its environment. It
// returns when smartnatd has reported that it is ready. Restart waits for that too.
func (l *Lab) StartGateway(ctx context.Context, config string, env ...string) (*Process, error) {
	return l.StartGatewayOn(ctx, Gateway, config, env...)
}

// StartGatewayOn is like StartGateway on another host.
func (l *Lab) StartGatewayOn(ctx context.Context, host, config string, env ...string) (*Process, error) {
	if err := l.Host(host).WriteFile(gatewayConfigFile, config); err != nil {
		return nil, err
	}
	program, err := l.program("smartnatd")
	if err != nil {
		return nil, err
	}
	supervisor, err := testenv.NewSupervisor(filepath.Join(workDir, fmt.Sprintf("notify-%d", time.Now().UnixNano())))
	if err != nil {
		return nil, err
	}
	return l.Host(host).start(ctx, command{
		name: "smartnatd", argv: []string{program, "--config", gatewayConfigFile}, env: env, supervisor: supervisor,
		ready: func(context.Context) error {
			if !supervisor.Ready() {
				return errors.New("not ready yet")
			}
			return nil
		},
	})
}

// Smartnatd runs a smartnatd command on the gateway and returns its output.
func (l *Lab) Smartnatd(ctx context.Context, args ...string) (string, error) {
	return l.SmartnatdOn(ctx, Gateway, args...)
}

// program returns the path of one of SmartNat's programs.
func (l *Lab) program(name string) (string, error) {
	if l.binDir == "" {
		return "", fmt.Errorf("%s was not built, see the error above", name)
	}
	return filepath.Join(l.binDir, name), nil
}

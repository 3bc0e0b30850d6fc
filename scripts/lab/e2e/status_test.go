// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/smartnat/smartnat/scripts/lab"
)

// withAccess is a kustomization of the relay's manifests.
const withAccess = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [MANIFESTS]
`

// TestStatus checks the status that a Mapping's author sees: through a relay, and with a gateway that reaches the cluster directly.
func TestStatus(t *testing.T) {
	w := &world{Lab: lab.New(t), plane: native{}}
	ctx := timeout(t, 3*time.Minute)
	relay, err := w.StartRelay(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, "apply", "--kustomize", kustomization(t))
	if err := w.GrantGateway(ctx); err != nil {
		t.Fatal(err)
	}
	if w.daemon, err = w.StartGateway(ctx, lab.GatewayConfig+w.plane.config(), w.plane.env()...); err != nil {
		t.Fatal(err)
	}
	w.namespace(t, "status", 2)
	w.mapping(t, "status", `addresses: [198.51.100.11], serviceName: echo, mode: endpoints, ports: [{port: 97, servicePort: 8080}]`)
	w.kubectl(t, "wait", "--namespace=status", "--for=condition=Ready", "mapping/echo", "--timeout=20s")
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.11", 97), nil)
	w.eventuallySays(t, "{.status.instances}",
		`[{"addresses":["198.51.100.11"],"endpoints":2,"name":"gateway-1","observedGeneration":1,"programmed":true,"ready":true}]`)

	if err := relay.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.daemon.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	// Without the relay, and under the name of another gateway: the first one's entry stays, as only a relay removes it.
	if err := w.Host(lab.Gateway).WriteFile("/etc/smartnat/kubeconfig", kubeconfig(t, w)); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(lab.GatewayConfig, "uplinks:")
	if w.daemon, err = w.StartGateway(ctx, "instance: direct\nsource: {kubeconfig: {path: /etc/smartnat/kubeconfig}}\nuplinks:"+rest+w.plane.config(), w.plane.env()...); err != nil {
		t.Fatal(err)
	}
	w.eventuallySays(t, "{.status.instances[*].name}", "gateway-1 direct")
	w.eventuallySays(t, `{.status.conditions[?(@.type=="Programmed")].message}`, "in effect on direct, gateway-1")
	w.mapping(t, "status", `addresses: [198.51.100.11], serviceName: absent, mode: endpoints, ports: [{port: 97, servicePort: 8080}]`)
	w.eventuallySays(t, `{.status.conditions[?(@.type=="ResolvedRefs")].reason}`, "ServiceNotFound")
	w.eventuallySays(t, `{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].reason}`, "False ServiceNotFound")
	w.eventuallySays(t, `{.status.conditions[?(@.type=="Programmed")].message}`, "the last change is not in effect yet on gateway-1")
	if got := w.kubectl(t, "get", "leases", "--namespace=smartnat", "-o", "jsonpath={.items[*].metadata.name}"); got != "smartnatd-direct smartnatd-gateway-1" {
		t.Errorf("Leases %q, want one of each gateway", got)
	}
}

func (w *world) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.Kubectl(timeout(t, time.Minute), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// eventuallySays waits until a field of the Mapping has a value.
func (w *world) eventuallySays(t *testing.T, field, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = w.kubectl(t, "get", "mapping", "echo", "--namespace=status", "-o", "jsonpath="+field); got == want {
			return
		}
	}
	t.Errorf("%s (-want +got)\n%s", field, cmp.Diff(want, got))
}

// kustomization returns a folder to apply.
func kustomization(t *testing.T) string {
	t.Helper()
	manifests, err := filepath.Abs("../../../relay/manifests")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	relative, err := filepath.Rel(dir, manifests)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(withAccess, "MANIFESTS", relative)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// directRole grants a gateway with a kubeconfig its rights, as listed in relay/README.md.
const directRole = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: direct}
rules:
- {apiGroups: [smartnat.aureacentral.com], resources: [mappings], verbs: [get, list, watch]}
- {apiGroups: [smartnat.aureacentral.com], resources: [portgrants], verbs: [list, watch]}
- {apiGroups: [""], resources: [services, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [smartnat.aureacentral.com], resources: [mappings/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: direct, namespace: smartnat}
rules:
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, patch]}
`

// kubeconfig returns a kubeconfig for a ServiceAccount with the directRole.
func kubeconfig(t *testing.T, w *world) string {
	t.Helper()
	w.apply(t, directRole)
	w.kubectl(t, "create", "serviceaccount", "direct", "--namespace=smartnat")
	w.kubectl(t, "create", "clusterrolebinding", "direct", "--clusterrole=direct", "--serviceaccount=smartnat:direct")
	w.kubectl(t, "create", "rolebinding", "direct", "--role=direct", "--serviceaccount=smartnat:direct", "--namespace=smartnat")
	rest := w.RESTConfig()
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: rest.Host, CertificateAuthority: rest.CAFile, CertificateAuthorityData: rest.CAData}
	config.AuthInfos["lab"] = &clientcmdapi.AuthInfo{Token: w.kubectl(t, "create", "token", "direct", "--namespace=smartnat")}
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "lab"}
	config.CurrentContext = "lab"
	if err := clientcmdapi.FlattenConfig(config); err != nil {
		t.Fatal(err)
	}
	text, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"crypto/x509/pkix"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// tenant has all RBAC permissions for EndpointSlices in its namespace.
const tenant = `
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant, namespace: shop}
rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects: [{kind: ServiceAccount, name: tenant, namespace: shop}]
`

// workload is a Service with a selector and its pod, without the pod's status.
const workload = `
apiVersion: v1
kind: Service
metadata: {name: picked, namespace: shop}
spec: {selector: {app: picked}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: picked, namespace: shop, labels: {app: picked}}
spec: {nodeName: node1, automountServiceAccountToken: false, containers: [{name: c, image: none}]}
`

// handmade is a slice with an address that is not a pod's.
const handmade = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: NAME, namespace: shop, labels: {LABELS}}
addressType: IPv4
ports: [{port: 53}]
endpoints: [{addresses: [8.8.8.8]}]
`

const (
	ofPicked     = "kubernetes.io/service-name: picked"
	byController = "endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io"
)

// TestEndpointSlicesAreTheControllers proves that only the EndpointSlice controller can write what proves to gateways that
// endpoints are pods.
func TestEndpointSlicesAreTheControllers(t *testing.T) {
	p := startControlPlane(t)
	testenv.RequireTool(t, filepath.Join(p.tools, "kube-controller-manager"))
	p.kubectl("create", "namespace", "shop")
	p.write("tenant.yaml", []byte(tenant))
	p.kubectl("apply", "--filename", p.path("tenant.yaml"))
	if out := p.kubectl("apply", "--filename=../../relay/manifests/endpointslices.yaml", "--validate=strict"); strings.Contains(out, "Warning") {
		t.Errorf("the API server warns about the policy:\n%s", out)
	}
	token := p.kubectl("--namespace=shop", "create", "token", "tenant")
	as := func(args ...string) (string, error) {
		return p.kubectlAs(append([]string{"--server", clusterURL, "--token", token, "--namespace=shop"}, args...)...)
	}
	file := func(name, labels string) string {
		p.write(name+".yaml", []byte(strings.NewReplacer("NAME", name, "LABELS", labels).Replace(handmade)))
		return p.path(name + ".yaml")
	}
	refused := func(out string, err error) bool {
		return err != nil && strings.Contains(out, "smartnat-endpointslices") && strings.Contains(out, "only the EndpointSlice controller may write")
	}
	// A policy takes effect with a delay.
	p.eventually("the policy to be in force", func() bool {
		return refused(as("create", "--dry-run=server", "--filename", file("forged", ofPicked+", "+byController)))
	})

	startControllers(p)
	p.write("workload.yaml", []byte(workload))
	p.kubectl("apply", "--filename", p.path("workload.yaml"))
	p.kubectl("--namespace=shop", "patch", "pod", "picked", "--subresource=status", "--type=merge", "--patch",
		`{"status": {"phase": "Running", "podIP": "10.244.1.9", "podIPs": [{"ip": "10.244.1.9"}], "conditions": [{"type": "Ready", "status": "True"}]}}`)
	addresses := func() string {
		return p.kubectl("--namespace=shop", "get", "endpointslices", "--selector=kubernetes.io/service-name=picked,endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io",
			"-o", "jsonpath={.items[*].endpoints[*].addresses[*]}")
	}
	p.eventually("the controller to publish the pod's address", func() bool { return addresses() == "10.244.1.9" })
	current := func() string {
		return p.kubectl("--namespace=shop", "get", "endpointslices", "-o", "name",
			"--selector=kubernetes.io/service-name=picked,endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io")
	}
	slice := current()

	if out, err := as("create", "--filename", file("own", ofPicked)); err != nil {
		t.Fatalf("a slice without the label: %v, %s", err, out)
	}
	for _, try := range [][]string{
		{"a slice with the label", "create", "--filename", file("forged", ofPicked+", "+byController)},
		{"adding the label", "label", "endpointslice/own", strings.Replace(byController, ": ", "=", 1)},
		{"removing the label", "label", slice, "endpointslice.kubernetes.io/managed-by-"},
		{"another manager", "label", "--overwrite", slice, "endpointslice.kubernetes.io/managed-by=me"},
		{"another Service", "label", "--overwrite", slice, "kubernetes.io/service-name=web"},
		{"another endpoint", "patch", slice, "--type=json", "--patch", `[{"op": "replace", "path": "/endpoints/0/addresses/0", "value": "8.8.8.8"}]`},
		{"one more endpoint", "patch", slice, "--type=json", "--patch", `[{"op": "add", "path": "/endpoints/-", "value": {"addresses": ["8.8.8.8"]}}]`},
		{"other conditions", "patch", slice, "--type=json", "--patch", `[{"op": "replace", "path": "/endpoints/0/conditions", "value": {"ready": false}}]`},
		{"another port", "patch", slice, "--type=json", "--patch", `[{"op": "replace", "path": "/ports/0/port", "value": 10250}]`},
		{"no ports", "patch", slice, "--type=json", "--patch", `[{"op": "remove", "path": "/ports"}]`},
		{"a slice by server-side apply", "apply", "--server-side", "--filename", file("applied", ofPicked+", "+byController)},
	} {
		if out, err := as(try[1:]...); !refused(out, err) {
			t.Errorf("%s: %v, %s", try[0], err, out)
		}
	}
	for _, try := range [][]string{
		{"a slice of another manager", "create", "--filename", file("mine", ofPicked+", endpointslice.kubernetes.io/managed-by: me")},
		{"endpoints of the tenant's own slice", "patch", "endpointslice/own", "--type=json", "--patch", `[{"op": "replace", "path": "/endpoints/0/addresses/0", "value": "9.9.9.9"}]`},
		{"an annotation", "annotate", slice, "a=b"},
		{"deletion", "delete", slice},
	} {
		if out, err := as(try[1:]...); err != nil {
			t.Errorf("%s: %v, %s", try[0], err, out)
		}
	}
	p.eventually("the controller to recreate the slice", func() bool { return addresses() == "10.244.1.9" })
	// The next sync of the controller replaces a slice without an owner, so this comes last.
	slice = current()
	if out, err := as("patch", slice, "--type=json", "--patch", `[{"op": "remove", "path": "/metadata/ownerReferences"}]`); err != nil {
		t.Errorf("no owner references: %v, %s", err, out)
	}
}

// startControllers starts kube-controller-manager with the controller of EndpointSlices, under its own ServiceAccount.
func startControllers(p *controlPlane) {
	p.t.Helper()
	p.issue("controllers", pkix.Name{CommonName: "system:kube-controller-manager"})
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: clusterURL, CertificateAuthority: p.path("ca.crt")}
	config.AuthInfos["user"] = &clientcmdapi.AuthInfo{ClientCertificate: p.path("controllers.crt"), ClientKey: p.path("controllers.key")}
	config.Contexts["context"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "user"}
	config.CurrentContext = "context"
	if err := clientcmd.WriteToFile(*config, p.path("controllers.kubeconfig")); err != nil {
		p.t.Fatal(err)
	}
	p.start("kube-controller-manager", "--kubeconfig", p.path("controllers.kubeconfig"), "--controllers=endpointslice-controller",
		"--leader-elect=false", "--use-service-account-credentials", "--secure-port=0", "--profiling=false")
}

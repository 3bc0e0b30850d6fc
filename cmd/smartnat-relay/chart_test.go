// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// changed sets values of the chart to others than the default.
const changed = `
image: {repository: "registry.example.com:5000/relay", digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
replicas: 3
issueCertificate: false
extraArgs: [--log-level=debug, --history=2048]
service: {type: LoadBalancer, nodePort: 0, annotations: {example.com/internal: "true"}}
resources: {limits: {memory: 1Gi}}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]
podDisruptionBudget: {maxUnavailable: 50%}
networkPolicy: {egress: [{ports: [{protocol: TCP, port: 16443}]}, {ports: [{protocol: UDP, port: 53}]}]}
nodes:
  enabled: true
  image: {repository: "registry.example.com:5000/smartnatd", digest: "sha256:ba9876543210ba9876543210ba9876543210ba9876543210ba9876543210ba98"}
  config: {uplinks: [{interface: ens5, gateway: 198.51.100.1}], ownership: {markMask: 0x1ff00000}}
  resources: {limits: {memory: 1Gi}}
  nodeSelector: {smartnat.aureacentral.com/gateway: null, example.com/edge: "true"}
  tolerations: []
`

// testChart compares the chart with the manifests, and applies it to the API server in a dry run.
func testChart(t *testing.T, p *controlPlane) {
	tools, err := exec.CommandContext(t.Context(), "../../scripts/tools/build.sh", "helm").Output()
	if err != nil {
		t.Fatal(err)
	}
	render := func(namespace, values string) (string, error) {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), filepath.Join(strings.TrimSpace(string(tools)), "helm"), namespace, "../../relay/chart")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(values), &stdout, &stderr
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%w: %s", err, stderr.String())
		}
		return stdout.String(), nil
	}
	rendered := func(values string) string {
		t.Helper()
		text, err := render("smartnat", values)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}

	t.Run("is the same as the manifests", func(t *testing.T) {
		want := objectsOf(t, p.kubectl("kustomize", "../../relay/manifests"))
		delete(want, "Namespace smartnat") // helm install --create-namespace
		// Helm installs CRDs as they are; kustomize adds its label.
		for _, resource := range []string{"mappings", "portgrants"} {
			delete(want["CustomResourceDefinition "+resource+".smartnat.aureacentral.com"].(map[string]any)["metadata"].(map[string]any), "labels")
		}
		got := objectsOf(t, rendered(""))
		delete(got["Secret smartnat-relay-tls"].(map[string]any)["metadata"].(map[string]any), "annotations") // for Helm
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-manifests +chart\n%s", diff)
		}
	})
	t.Run("nodes are the same as the manifests", func(t *testing.T) {
		without := objectsOf(t, rendered(""))
		got := objectsOf(t, rendered("nodes: {enabled: true}"))
		maps.DeleteFunc(got, func(name string, _ any) bool { return without[name] != nil })
		want := objectsOf(t, p.kubectl("kustomize", "../../relay/manifests/nodes"))
		checksum := func(objects map[string]any) string {
			t.Helper()
			return must(t)(nestedString(objects["DaemonSet smartnatd"], "spec", "template", "metadata", "annotations", "checksum/config"))
		}
		if one, other := checksum(got), checksum(objectsOf(t, rendered(changed))); one == other {
			t.Errorf("the checksum of two configs is %q", one)
		}
		if diff := cmp.Diff(nodesOf(t, want), nodesOf(t, got)); diff != "" {
			t.Errorf("-manifests +chart\n%s", diff)
		}
	})
	t.Run("with other values", func(t *testing.T) {
		text := rendered(changed)
		for _, want := range []string{
			"image: registry.example.com:5000/relay@sha256:0123", "--issue-certificate=false", "--history=2048", "replicas: 3", "port: 16443", "maxUnavailable: 50%",
			"kubernetes.io/os: linux", "example.com/internal", "allocateLoadBalancerNodePorts: false",
			"image: registry.example.com:5000/smartnatd@sha256:ba98", "example.com/edge: \"true\"", "interface: ens5", "markMask: 535822336", "kubeconfig: {}",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s", want)
			}
		}
		for _, gone := range []string{"smartnat.aureacentral.com/gateway", "interface: eth0"} {
			if strings.Contains(text, gone) {
				t.Errorf("%s is left", gone)
			}
		}
		p.kubectl("apply", "--filename", "../../relay/manifests/nodes/namespace.yaml") // a dry run creates nothing
		p.write("chart.yaml", []byte(text))
		// Server-side apply with a manager of its own, as Helm 4 does.
		out := p.kubectl("apply", "--server-side", "--field-manager=helm", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename", p.path("chart.yaml"))
		if got := strings.Count(out, " serverside-applied (server dry run)"); got != len(objectsOf(t, text)) {
			t.Errorf("%d objects were applied:\n%s", got, out)
		}
	})
	t.Run("options", func(t *testing.T) {
		with := objectsOf(t, rendered("serviceMonitor: {enabled: true, labels: {release: prometheus}}"))
		for _, name := range []string{"ServiceMonitor smartnat-relay", "Service smartnat-relay-metrics"} {
			if with[name] == nil {
				t.Errorf("no %s", name)
			}
		}
		without := objectsOf(t, rendered("podDisruptionBudget: {enabled: false}\nnetworkPolicy: {enabled: false}"))
		if got, all := len(without), len(objectsOf(t, rendered(""))); got != all-2 {
			t.Errorf("%d objects without two of %d", got, all)
		}
	})
	for _, values := range []string{
		"replicas: 0", "replica: 2", "image: {digest: latest}", "image: {tag: \"a b\"}", "service: {type: ExternalName}", "serviceMonitor: {interval: often}", "extraArgs: [log-level=debug]",
		"nodes: {on: true}", "nodes: {image: {digest: latest}}", "nodes: {config: {uplinks: []}}", "nodes: {config: {uplinks: [eth0]}}", "nodes: {config: {uplinks: [{gateway: 192.0.2.1}]}}",
		"nodes: {config: {instance: gw1}}", "nodes: {config: {source: null}}", "nodes: {nodeSelector: {a: true}}", "nodes: {tolerations: [all]}",
	} {
		if _, err := render("smartnat", values); err == nil || !strings.Contains(err.Error(), "don't meet the specifications of the schema") {
			t.Errorf("values %s: %v", values, err)
		}
	}
	if _, err := render("elsewhere", ""); err != nil {
		t.Errorf("in another namespace: %v", err)
	}
	if _, err := render("elsewhere", "nodes: {enabled: true}"); err == nil || !strings.Contains(err.Error(), "nodes.enabled needs the namespace smartnat") {
		t.Errorf("nodes in another namespace: %v", err)
	}
}

// nodesOf returns the objects of the DaemonSet with the config parsed, under the same names: kustomize names the ConfigMap by its
// content, while the chart notes the checksum in the pods.
func nodesOf(t *testing.T, objects map[string]any) map[string]any {
	t.Helper()
	list := map[string]any{}
	for name, object := range objects {
		object := object.(map[string]any)
		switch kind, _, _ := strings.Cut(name, " "); kind {
		case "ConfigMap":
			name = kind + " smartnatd"
			var config map[string]any
			if err := yaml.Unmarshal([]byte(must(t)(nestedString(object, "data", "smartnat.yaml"))), &config); err != nil {
				t.Fatal(err)
			}
			object["data"] = config
			object["metadata"].(map[string]any)["name"] = "smartnatd"
		case "DaemonSet":
			unstructured.RemoveNestedField(object, "spec", "template", "metadata", "annotations")
			volumes, _, err := unstructured.NestedSlice(object, "spec", "template", "spec", "volumes")
			if err != nil {
				t.Fatal(err)
			}
			volumes[0].(map[string]any)["configMap"] = map[string]any{"name": "smartnatd"}
			if err := unstructured.SetNestedSlice(object, volumes, "spec", "template", "spec", "volumes"); err != nil {
				t.Fatal(err)
			}
		}
		list[name] = object
	}
	return list
}

// nestedString is like unstructured.NestedString, but fails without the field.
func nestedString(object any, fields ...string) (string, error) {
	text, found, err := unstructured.NestedString(object.(map[string]any), fields...)
	if err == nil && !found {
		err = fmt.Errorf("no %s", strings.Join(fields, "."))
	}
	return text, err
}

// objectsOf parses YAML into objects by kind and name.
func objectsOf(t *testing.T, text string) map[string]any {
	t.Helper()
	objects := map[string]any{}
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var object struct {
			Kind     string
			Metadata struct{ Name string }
		}
		var whole map[string]any
		if err := yaml.Unmarshal([]byte(document), &whole); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if whole == nil {
			continue
		}
		name := object.Kind + " " + object.Metadata.Name
		if objects[name] != nil {
			t.Errorf("%s occurs twice", name)
		}
		objects[name] = whole
	}
	return objects
}

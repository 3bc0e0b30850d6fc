// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
)

// grantCase is a Mapping of a namespace, and PortGrants. NS is the namespace, with the label tier=gold. IP. and IP6: begin addresses that
// no other case has.
type grantCase struct {
	name    string
	grants  []string
	mapping string
	// want is a part of the refusal if an address needs a grant only where one covers it, and required if all addresses need one.
	want, required string
}

// same is a case whose answer does not depend on whether all addresses need a grant.
func same(name, want, mapping string, grants ...string) grantCase {
	return grantCase{name, grants, mapping, want, want}
}

func grantCases() []grantCase {
	var ranges, many []string
	for i := range v1alpha1.MaxGrantPorts {
		ranges = append(ranges, fmt.Sprintf("{port: %d}", 1000+i))
	}
	for i := range v1alpha1.MaxPorts {
		many = append(many, fmt.Sprintf("{port: %d}", 1000+i))
	}
	none := "has no PortGrant for"
	return []grantCase{
		{"no grant", nil, "{addresses: [IP.1], ports: [{port: 80}]}", "", "no PortGrant covers"},
		{"another address is covered", []string{"{addresses: [IP.2], namespaces: [NS]}"}, "{addresses: [IP.1], ports: [{port: 80}]}", "", "no PortGrant covers"},
		same("all ports", "", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS]}"),
		same("by a network", "", "{addresses: [IP.1, IP.200], ports: [{port: 80}]}", "{addresses: [IP.0/24], namespaces: [NS]}"),
		same("another namespace", none, "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.0/25], namespaces: [other]}"),
		same("by label", "", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {matchLabels: {tier: gold}}}"),
		same("by a label that the namespace lacks", none, "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {matchLabels: {tier: silver}}}"),
		same("by expressions", "", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {matchExpressions: "+
			"[{key: tier, operator: In, values: [silver, gold]}, {key: tier, operator: Exists}, {key: x, operator: DoesNotExist}, {key: x, operator: NotIn, values: [a]}]}}"),
		same("an expression that excludes it", none, "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [gold]}]}}"),
		same("a label that must be absent", none, "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}"),
		same("a label that must exist", none, "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {matchExpressions: [{key: x, operator: Exists}]}}"),
		same("a value that reads like an operator", none, "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {matchLabels: {word: notin}}}"),
		same("an empty selector selects all", "", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaceSelector: {}}"),
		same("by name and by a label that it lacks", "", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS], namespaceSelector: {matchLabels: {tier: silver}}}"),
		same("another port", "only 443/tcp, 1000-1999 of it", "{addresses: [IP.1], ports: [{port: 443}, {port: 80}]}",
			"{addresses: [IP.1], namespaces: [NS], ports: [{port: 443, protocol: TCP}, {port: 1000, endPort: 1999}]}"),
		same("another protocol", "only 80/udp of it", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS], ports: [{port: 80, protocol: udp}]}"),
		same("a protocol in upper case", "", "{addresses: [IP.1], ports: [{port: 80, protocol: UDP}]}", "{addresses: [IP.1], namespaces: [NS], ports: [{port: 80, protocol: Udp}]}"),
		same("a range within one", "", "{addresses: [IP.1], mode: endpoints, ports: [{port: 1000, endPort: 1999, protocol: sctp}]}", "{addresses: [IP.1], namespaces: [NS], ports: [{port: 1000, endPort: 1999}]}"),
		same("a range beyond one", "1000-2000/tcp is refused", "{addresses: [IP.1], mode: endpoints, ports: [{port: 1000, endPort: 2000}]}", "{addresses: [IP.1], namespaces: [NS], ports: [{port: 1000, endPort: 1999}]}"),
		same("a range that two grants share does not add up", "only 1-80 of it", "{addresses: [IP.1], mode: endpoints, ports: [{port: 80, endPort: 81}]}",
			"{addresses: [IP.1], namespaces: [NS], ports: [{port: 1, endPort: 80}]}", "{addresses: [IP.1], namespaces: [NS], ports: [{port: 81, endPort: 90}]}"),
		same("ports of two grants add up", "", "{addresses: [IP.1], ports: [{port: 80}, {port: 81}]}",
			"{addresses: [IP.1], namespaces: [NS], ports: [{port: 80}]}", "{addresses: [IP.0/24], namespaceSelector: {matchLabels: {tier: gold}}, ports: [{port: 81}]}"),
		same("the message is about the highest priority", "only 82 of it", "{addresses: [IP.1], ports: [{port: 80}]}",
			"{addresses: [IP.1], namespaces: [NS], ports: [{port: 81}]}", "{addresses: [IP.1], namespaceSelector: {}, ports: [{port: 82}], priority: 5}"),
		same("many ranges are shortened", "1007, 56 more of it", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS], ports: ["+strings.Join(ranges, ", ")+"]}"),
		same("one of two addresses", "IP.2:80/tcp is refused", "{addresses: [IP.1, IP.2], ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS]}", "{addresses: [IP.2], namespaces: [other]}"),
		same("everyone may connect", "needs allowedSources within 10.0.0.0/8", "{addresses: [IP.1], ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS], allowedSources: [10.0.0.0/8]}"),
		same("a source outside", "allowedSources has 0.0.0.0/0", "{addresses: [IP.1], ports: [{port: 80}], allowedSources: [10.1.0.0/16, 0.0.0.0/0]}", "{addresses: [IP.1], namespaces: [NS], allowedSources: [10.0.0.0/8]}"),
		same("sources within, and others of the other family", "", `{addresses: [IP.1], ports: [{port: 80}], allowedSources: [10.1.0.0/16, "2001:db8::/32"]}`,
			`{addresses: [IP.1], namespaces: [NS], allowedSources: [172.16.0.0/12, 10.0.0.0/8]}`),
		same("ports of one grant and sources of another", "is refused", "{addresses: [IP.1], ports: [{port: 80}], allowedSources: [10.0.0.0/8]}",
			"{addresses: [IP.1], namespaces: [NS], ports: [{port: 80}], allowedSources: [172.16.0.0/12]}", "{addresses: [IP.1], namespaces: [NS], ports: [{port: 81}]}"),
		same("IPv6 in another spelling", "", `{addresses: ["IP6:0:0::A"], ports: [{port: 80}]}`, `{addresses: ["IP6::/64"], namespaces: [NS]}`),
		same("IPv6, not granted", "]:80/tcp is refused", `{addresses: ["IP6:0:0::A"], ports: [{port: 80}]}`, `{addresses: ["IP6::a"], namespaces: [other]}`),
		same("an IPv6 source in another spelling", "allowedSources has 2001:db8:ff::/48", `{addresses: ["IP6::a"], ports: [{port: 80}], allowedSources: ["2001:DB8:FF::/48"]}`,
			`{addresses: ["IP6::/64"], namespaces: [NS], allowedSources: ["2001:db8:aa::/48"]}`),
		same("egress", "", "{addresses: [IP.1], egress: true, ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS], egress: true}"),
		same("egress is not granted", "egress is refused", "{addresses: [IP.1], egress: true, ports: [{port: 80}]}", "{addresses: [IP.1], namespaces: [NS]}"),
		same("256 ports", "", "{addresses: [IP.1, IP.2, IP.3, IP.4], ports: ["+strings.Join(many, ", ")+"]}", "{addresses: [IP.0/24], namespaces: [NS], ports: [{port: 1000, endPort: 1999}]}"),
		// More than the API server evaluates: the policy lets it pass.
		same("as many as possible", "", "{addresses: ["+strings.TrimSuffix(strings.Repeat("IP.N, ", v1alpha1.MaxAddresses), ", ")+"], ports: ["+strings.Join(many, ", ")+"]}",
			"{addresses: [IP.0/24], namespaces: [NS], ports: ["+strings.Join(ranges, ", ")+"]}", "{addresses: [IP.0/24], namespaces: [NS], ports: [{port: 1000, endPort: 1999}]}"),
	}
}

// policyTest is a cluster with the policy, and a case with its objects.
type policyTest struct {
	*controlPlane
	mappings   versioned.Interface
	core       kubernetes.Interface
	cases      []grantCase
	namespaces []*corev1.Namespace
	grants     []*v1alpha1.PortGrant
}

// TestGrantsAtApply creates Mappings at the API server, whose answer must be that of apis/smartnat/grants.
func TestGrantsAtApply(t *testing.T) {
	p := startPolicy(t)
	p.wait("before the first write, the policy to refuse nothing", "")
	// A Mapping from before the first grant.
	old := p.parse(slices.IndexFunc(p.cases, func(c grantCase) bool { return c.name == "another port" }))
	// The policy may take effect now, and refuses all as long as the API server has not read its parameters.
	p.eventually("a Mapping to be created", func() bool {
		created, err := p.mappings.SmartnatV1alpha1().Mappings(old.Namespace).Create(t.Context(), old, metav1.CreateOptions{})
		if p.refusal(err) != "" {
			return false
		}
		old = created
		return true
	})
	for _, required := range []bool{false, true} {
		t.Run(fmt.Sprintf("required %t", required), func(t *testing.T) { p.round(t, required) })
	}
	t.Run("updates", func(t *testing.T) { p.updates(t, old) })
	t.Run("without the ConfigMap", func(t *testing.T) {
		p.kubectl("--namespace=smartnat", "delete", "configmap", "smartnat-grants")
		p.wait("the policy to refuse nothing", "")
	})
	t.Run("kept by the relay", p.byRelay)
}

func startPolicy(t *testing.T) *policyTest {
	p := &policyTest{controlPlane: startControlPlane(t), cases: grantCases()}
	p.kubectl("apply", "--filename=../../apis/crds")
	p.kubectl("wait", "--for=condition=Established", "crd/mappings.smartnat.aureacentral.com", "crd/portgrants.smartnat.aureacentral.com", "--timeout=30s")
	if out := p.kubectl("apply", "--kustomize", "../../relay/manifests", "--validate=strict"); strings.Contains(out, "Warning") {
		t.Errorf("the API server warns about the manifests:\n%s", out)
	}
	config := &rest.Config{Host: clusterURL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("ca.crt"), CertFile: p.path("admin.crt"), KeyFile: p.path("admin.key")}}
	var err error
	if p.mappings, err = versioned.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if p.core, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	// The last case is a probe that every round refuses.
	p.cases = append(p.cases, grantCase{name: "probe", mapping: "{addresses: [IP.1], ports: [{port: 80}]}"})
	for i, c := range p.cases {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.namespace(i), Labels: map[string]string{"tier": "gold", "word": "in"}}}
		if n, err = p.core.CoreV1().Namespaces().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		p.namespaces = append(p.namespaces, n)
		for j, text := range c.grants {
			g := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("g%d-%d", i, j)}}
			p.unmarshal(i, text, &g.Spec)
			p.grants = append(p.grants, g)
		}
	}
	return p
}

func (p *policyTest) namespace(i int) string { return fmt.Sprintf("case-%d", i) }

// unmarshal parses a text of a case.
func (p *policyTest) unmarshal(i int, text string, into any) {
	p.t.Helper()
	if err := yaml.UnmarshalStrict([]byte(p.spell(i, text)), into); err != nil {
		p.t.Fatalf("%s: %v in %s", p.cases[i].name, err, text)
	}
}

func (p *policyTest) spell(i int, text string) string {
	for n := 1; strings.Contains(text, "IP.N"); n++ {
		text = strings.Replace(text, "IP.N", fmt.Sprintf("IP.%d", n), 1)
	}
	return strings.NewReplacer("NS", p.namespace(i), "IP6:", fmt.Sprintf("2001:db8:%x:", i+1), "IP.", fmt.Sprintf("198.18.%d.", i)).Replace(text)
}

func (p *policyTest) parse(i int) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace(i), Name: "web"}}
	p.unmarshal(i, p.cases[i].mapping, &m.Spec)
	m.Spec.ServiceName = "web"
	return m
}

// create returns the API server's refusal, or "".
func (p *policyTest) create(i int) string {
	p.t.Helper()
	m := p.parse(i)
	m.Name = "new"
	_, err := p.mappings.SmartnatV1alpha1().Mappings(m.Namespace).Create(p.t.Context(), m, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return p.refusal(err)
}

func (p *policyTest) refusal(err error) string {
	p.t.Helper()
	if err == nil {
		return ""
	}
	_, why, found := strings.Cut(err.Error(), "ValidatingAdmissionPolicy 'smartnat-grants' with binding 'smartnat-grants' denied request: ")
	if !found || !apierrors.IsForbidden(err) {
		p.t.Fatalf("not by the policy: %v", err)
	}
	return why
}

// wait waits until the probe is refused with a text, because the API server follows changes with a delay.
func (p *policyTest) wait(what, refusal string) {
	p.t.Helper()
	p.eventually(what, func() bool {
		got := p.create(len(p.cases) - 1)
		return refusal == "" && got == "" || refusal != "" && strings.Contains(got, refusal)
	})
}

// round compares all answers under one setting.
func (p *policyTest) round(t *testing.T, required bool) {
	probe := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("round-%t", required)}}
	p.unmarshal(len(p.cases)-1, "{addresses: [IP.1], namespaces: [NS], ports: [{port: 1}]}", &probe.Spec)
	granted := grants.New(append(slices.Clone(p.grants), probe), p.namespaces, grants.Options{Required: required})
	table, err := granted.Table()
	if err != nil {
		t.Fatal(err)
	}
	maps := p.core.CoreV1().ConfigMaps("smartnat")
	m, err := maps.Get(t.Context(), "smartnat-grants", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data = table
	if _, err := maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.wait("the grants of this round", probe.Name)
	for i, c := range p.cases[:len(p.cases)-1] {
		t.Run(c.name, func(t *testing.T) {
			mapping := p.parse(i)
			lost := conflicts.Find([]*v1alpha1.Mapping{mapping}, granted)[conflicts.Key(mapping)]
			got := p.create(i)
			var want []string
			for _, r := range lost.Refusals {
				want = append(want, r.String())
			}
			if (got == "") != (len(want) == 0) || got != "" && !slices.Contains(want, got) {
				t.Errorf("the API server says %q, package grants %q", got, want)
			}
			expected := c.want
			if required {
				expected = c.required
			}
			if (got == "") != (expected == "") || !strings.Contains(got, p.spell(i, expected)) {
				t.Errorf("%q, want %q", got, p.spell(i, expected))
			}
		})
	}
}

// updates changes a Mapping that is older than the grants. Only a change of what it asks for is refused.
func (p *policyTest) updates(t *testing.T, old *v1alpha1.Mapping) {
	for _, test := range []struct {
		name    string
		change  func(*v1alpha1.Mapping)
		refused bool
	}{
		{"an annotation", func(m *v1alpha1.Mapping) { m.Annotations = map[string]string{"a": "b"} }, false},
		{"another Service", func(m *v1alpha1.Mapping) { m.Spec.ServiceName = "other" }, false},
		{"one more port", func(m *v1alpha1.Mapping) { m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: 1000}) }, true},
		{"only what is granted", func(m *v1alpha1.Mapping) { m.Spec.Ports = m.Spec.Ports[:1] }, false},
		{"egress", func(m *v1alpha1.Mapping) { m.Spec.Egress = true }, true},
	} {
		m := old.DeepCopy()
		test.change(m)
		_, err := p.mappings.SmartnatV1alpha1().Mappings(m.Namespace).Update(context.Background(), m, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		if why := p.refusal(err); (why != "") != test.refused {
			t.Errorf("%s: %q, refused: want %t", test.name, why, test.refused)
		}
	}
}

// compareNamespaces is how often a relay counts namespaces without a Mapping.
const compareNamespaces = time.Minute

// byRelay starts two relays, with their own rights, and changes a PortGrant.
func (p *policyTest) byRelay(t *testing.T) {
	p.kubectl("apply", "--kustomize", "../../relay/manifests")
	p.issue("relay", pkix.Name{CommonName: "smartnat-relay"})
	kubeconfig := p.tokenKubeconfig("relay.kubeconfig", p.kubectl("--namespace=smartnat", "create", "token", "smartnat-relay"))
	startReplica(t, p.controlPlane, "8443", kubeconfig)
	startReplica(t, p.controlPlane, "8444", kubeconfig)
	probe := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: "by-label"}}
	p.unmarshal(len(p.cases)-1, "{addresses: [IP.0/24], namespaceSelector: {matchLabels: {tier: gold}}, ports: [{port: 443}]}", &probe.Spec)
	client := p.mappings.SmartnatV1alpha1().PortGrants()
	if _, err := client.Create(t.Context(), probe, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.wait("a port to be refused", "PortGrant by-label gives namespace "+p.namespace(len(p.cases)-1)+" only 443 of it")
	used := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace(len(p.cases) - 1), Name: "used"}}
	p.unmarshal(len(p.cases)-1, "{addresses: [IP.200, IP.201], serviceName: web, ports: [{port: 443}]}", &used.Spec)
	if _, err := p.mappings.SmartnatV1alpha1().Mappings(used.Namespace).Create(t.Context(), used, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	gold := func() int {
		return len(strings.Fields(p.kubectl("get", "namespaces", "--selector=tier=gold", "--output=name")))
	}
	says := func(want string) {
		t.Helper()
		got := ""
		p.within(2*compareNamespaces, "the status of the PortGrant to be "+want, func() bool {
			got = p.kubectl("get", "portgrant", "by-label", "--output=jsonpath={.status.conditions[0].status} {.status.conditions[0].reason} {.status.namespaces} {.status.mappings} {.status.ports}")
			return got == want
		})
	}
	before := gold()
	says(fmt.Sprintf("True Accepted %d 1 2", before))
	header, _, _ := strings.Cut(p.kubectl("get", "portgrants"), "\n")
	if got, want := strings.Fields(header), strings.Fields("NAME ADDRESSES NAMESPACES PRIORITY ACCEPTED REASON MAPPINGS PORTS AGE"); !slices.Equal(got, want) {
		t.Errorf("kubectl get portgrants has the columns %q, want %q", got, want)
	}
	p.kubectl("label", "--overwrite", "namespace", p.namespace(len(p.cases)-1), "tier=silver")
	p.wait("the namespace to be refused", "has no PortGrant for")
	says(fmt.Sprintf("True Accepted %d 0 0", before-1))
	if err := client.Delete(t.Context(), "by-label", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p.wait("nothing to be refused", "")
	// A Table that others spoil is written again when a PortGrant changes, or within a minute.
	if out := p.kubectl("--namespace=smartnat", "get", "configmap", "smartnat-grants", "-o", "jsonpath={.data}"); out != "" {
		t.Errorf("without PortGrants the ConfigMap has %s", out)
	}
}

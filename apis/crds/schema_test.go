// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package crds_test compares the generated schema of the Mapping with apis/smartnat/validation: both must accept the same
// Mappings and name the same invalid field.
package crds_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

const (
	mappingFile   = "smartnat.aureacentral.com_mappings.yaml"
	portGrantFile = "smartnat.aureacentral.com_portgrants.yaml"
)

// schema validates like the API server.
type schema struct {
	structural *structuralschema.Structural
	validator  schemavalidation.SchemaValidator
	cel        *cel.Validator
}

func readCRD(t testing.TB, file string) *apiextensions.CustomResourceDefinition {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		t.Fatal(err)
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&crd)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	crd.Status.StoredVersions = []string{"v1alpha1"} // as creation sets it
	var internal apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&crd, &internal, nil); err != nil {
		t.Fatal(err)
	}
	return &internal
}

func newSchema(t testing.TB, file string) *schema {
	t.Helper()
	// Conversion moves the schema of a single version to the top level.
	props := readCRD(t, file).Spec.Validation.OpenAPIV3Schema
	structural, err := structuralschema.NewStructural(props)
	if err != nil {
		t.Fatal(err)
	}
	validator, _, err := schemavalidation.NewSchemaValidator(props)
	if err != nil {
		t.Fatal(err)
	}
	return &schema{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}
}

func (s *schema) validate(t testing.TB, object map[string]any) field.ErrorList {
	object = runtime.DeepCopyJSON(object)
	defaulting.Default(object, s.structural)
	errs := schemavalidation.ValidateCustomResource(nil, object, s.validator)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structural, object)...)
	// The API server evaluates no rules on an object that the schema refuses.
	if len(errs) == 0 {
		errs, _ = s.cel.Validate(t.Context(), nil, s.structural, object, nil, celconfig.RuntimeCELCostBudget)
	}
	return errs
}

// TestCRDsAreAccepted validates the CRDs like the API server, including the cost of their rules.
func TestCRDsAreAccepted(t *testing.T) {
	for _, file := range []string{mappingFile, portGrantFile} {
		if errs := crdvalidation.ValidateCustomResourceDefinition(t.Context(), readCRD(t, file)); len(errs) > 0 {
			t.Errorf("%s: %v", file, errs.ToAggregate())
		}
	}
}

// TestSchemaAndValidationAgree validates one Mapping per case: the example with the fields of the case.
func TestSchemaAndValidationAgree(t *testing.T) {
	s := newSchema(t, mappingFile)
	for _, test := range cases() {
		t.Run(test.name, func(t *testing.T) {
			text := exampleWith(t, test.spec)
			var mapping v1alpha1.Mapping
			if err := yaml.UnmarshalStrict(text, &mapping); err != nil {
				t.Fatal(err)
			}
			before := mapping.DeepCopy()
			byCode := validation.ValidateMapping(&mapping)
			if diff := cmp.Diff(before, &mapping); diff != "" {
				t.Errorf("validation changed the Mapping (-before +after):\n%s", diff)
			}
			checkField(t, "the schema", s.validate(t, toJSON(t, text)), test.field)
			checkField(t, "validation", byCode, test.field)
		})
	}
}

// exampleWith returns the example with fields of its spec replaced.
func exampleWith(t testing.TB, spec string) []byte {
	t.Helper()
	var object struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   any            `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	if err := yaml.Unmarshal([]byte(example), &object); err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
		t.Fatal(err)
	}
	for name, value := range fields {
		object.Spec[name] = value
		if value == nil {
			delete(object.Spec, name)
		}
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// toJSON decodes numbers like the API server.
func toJSON(t *testing.T, text []byte) map[string]any {
	t.Helper()
	json, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := utiljson.Unmarshal(json, &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// checkField checks that the first error is about field or its parent, or that there is none if field is empty.
func checkField(t *testing.T, who string, errs field.ErrorList, want string) {
	t.Helper()
	if want == "" {
		if len(errs) > 0 {
			t.Errorf("%s refuses it: %v", who, errs.ToAggregate())
		}
		return
	}
	about := func(e *field.Error) bool {
		return strings.HasPrefix(e.Field, "spec.") && (strings.HasPrefix(want, e.Field) || strings.HasPrefix(e.Field, want))
	}
	if len(errs) == 0 {
		t.Errorf("%s accepts it", who)
	} else if !slices.ContainsFunc(errs, about) {
		t.Errorf("%s does not name field %s: %v", who, want, errs.ToAggregate())
	}
}

const example = `
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: echo, namespace: default}
spec:
  addresses: [10.237.94.10, 172.17.0.1]
  allowedSources: [10.0.0.0/16, 192.168.1.0/24]
  serviceName: echo-test-service
  mode: service
  ports:
  - port: 8080
  - {port: 8081, servicePort: 8080}
  - {port: 8081, servicePort: 8080, protocol: "udp"}
`

type testCase struct {
	// spec replaces fields of the example's spec; null removes one.
	name, spec string
	// field is the invalid field, empty if the Mapping is valid.
	field string
}

func cases() []testCase {
	return slices.Concat([]testCase{
		{"the example as it stands", "{}", ""},
	}, addressCases, uplinkCases, sourceCases, serviceCases, portCases, rangeCases, []testCase{
		{"address of the clients kept, and pods leave by it", "masquerade: false\negress: true", ""},
		{"masquerade and egress said as by default", "masquerade: null\negress: false", ""},
		{"64 addresses", "addresses: " + list(64, "198.51.100.%d"), ""},
		{"65 addresses", "addresses: " + list(65, "198.51.100.%d"), "spec.addresses"},
		{"256 ports", "ports: " + list(256, "{port: %d}"), ""},
		{"257 ports", "ports: " + list(257, "{port: %d}"), "spec.ports"},
		{"name of 63 letters", "serviceName: " + strings.Repeat("a", 63), ""},
		{"name of 64 letters", "serviceName: " + strings.Repeat("a", 64), "spec.serviceName"},
	})
}

// list returns n items, formatted with the numbers from 1.
func list(n int, format string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(format, i+1)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

var addressCases = []testCase{
	{"IPv6 address", `addresses: ["2001:db8::10"]`, ""},
	{"both families", `addresses: [198.51.100.10, "2001:db8::10"]`, ""},
	{"private addresses", `addresses: [192.168.0.1, "fd00::1"]`, ""},
	{"no addresses", "addresses: null", "spec.addresses"},
	{"empty addresses", "addresses: []", "spec.addresses"},
	{"empty address", `addresses: [""]`, "spec.addresses[0]"},
	{"address twice", "addresses: [198.51.100.10, 198.51.100.10]", "spec.addresses"},
	{"address twice, spelled differently", `addresses: ["2001:db8::10", "2001:DB8:0::10"]`, "spec.addresses"},
	{"octet too large", "addresses: [198.51.100.300]", "spec.addresses[0]"},
	{"leading zero", "addresses: [198.51.100.010]", "spec.addresses[0]"},
	{"short address", "addresses: [198.51.100]", "spec.addresses[0]"},
	{"name for an address", "addresses: [gateway.example.com]", "spec.addresses[0]"},
	{"network for an address", "addresses: [198.51.100.0/24]", "spec.addresses[0]"},
	{"address with a port", `addresses: ["198.51.100.10:80"]`, "spec.addresses[0]"},
	{"address with blanks", `addresses: [" 198.51.100.10"]`, "spec.addresses[0]"},
	{"address in other digits", "addresses: [١٩٨.51.100.10]", "spec.addresses[0]"},
	{"zone", `addresses: ["fe80::1%eth0"]`, "spec.addresses[0]"},
	{"mapped", `addresses: ["::ffff:198.51.100.10"]`, "spec.addresses[0]"},
	{"unspecified", "addresses: [0.0.0.0]", "spec.addresses[0]"},
	{"unspecified, IPv6", `addresses: ["::"]`, "spec.addresses[0]"},
	{"loopback", "addresses: [127.0.0.1]", "spec.addresses[0]"},
	{"loopback, IPv6", `addresses: ["::1"]`, "spec.addresses[0]"},
	{"multicast", "addresses: [224.0.0.1]", "spec.addresses[0]"},
	{"multicast, IPv6", `addresses: ["ff02::1"]`, "spec.addresses[0]"},
	{"link-local", "addresses: [169.254.1.1]", "spec.addresses[0]"},
	{"link-local, IPv6", `addresses: ["fe80::1"]`, "spec.addresses[0]"},
	{"broadcast", "addresses: [255.255.255.255]", "spec.addresses[0]"},
	{"second address bad", "addresses: [198.51.100.10, x]", "spec.addresses[1]"},
	{"enormous address", "addresses: [" + strings.Repeat("1", 5000) + "]", "spec.addresses[0]"},
}

// uplinkCases cover the names of links that dev_valid_name in the kernel's net/core/dev.c accepts.
var uplinkCases = []testCase{
	{"addresses of an uplink alone", "addresses: null\naddressesFrom: [{uplink: eth1}]", ""},
	{"addresses of an uplink, and none besides", "addresses: []\naddressesFrom: [{uplink: eth1}]", ""},
	{"addresses of an uplink, and one besides", "addressesFrom: [{uplink: eth1}]", ""},
	{"addresses of all uplinks", `addressesFrom: [{uplink: "*"}, {uplink: ppp0}]`, ""},
	{"uplinks of many spellings", `addressesFrom: [{uplink: eth1.100}, {uplink: "eth0@if7"}, {uplink: "!;~-_[]{}"}, {uplink: "a"}, {uplink: "..."}]`, ""},
	{"no addresses, and of no uplink", "addresses: null\naddressesFrom: []", "spec.addresses"},
	{"empty addresses, and of no uplink", "addresses: []\naddressesFrom: []", "spec.addresses"},
	{"uplink left out", "addressesFrom: [{}]", "spec.addressesFrom[0].uplink"},
	{"empty uplink", `addressesFrom: [{uplink: ""}]`, "spec.addressesFrom[0].uplink"},
	{"uplink of 15 letters", "addressesFrom: [{uplink: abcdefghijklmno}]", ""},
	{"uplink of 16 letters", "addressesFrom: [{uplink: abcdefghijklmnop}]", "spec.addressesFrom[0].uplink"},
	{"uplink with a slash", "addressesFrom: [{uplink: a/b}]", "spec.addressesFrom[0].uplink"},
	{"uplink with a colon", `addressesFrom: [{uplink: "eth0:1"}]`, "spec.addressesFrom[0].uplink"},
	{"uplink with a blank", `addressesFrom: [{uplink: "eth 1"}]`, "spec.addressesFrom[0].uplink"},
	{"uplink with a newline", `addressesFrom: [{uplink: "eth1\n"}]`, "spec.addressesFrom[0].uplink"},
	{"uplink with a tab", `addressesFrom: [{uplink: "\teth1"}]`, "spec.addressesFrom[0].uplink"},
	{"uplink with a zero byte", `addressesFrom: [{uplink: "eth\01"}]`, "spec.addressesFrom[0].uplink"},
	{"uplink with an escape", `addressesFrom: [{uplink: "\e[2J"}]`, "spec.addressesFrom[0].uplink"},
	{"uplink beyond ASCII", "addressesFrom: [{uplink: éth1}]", "spec.addressesFrom[0].uplink"},
	{"uplink .", "addressesFrom: [{uplink: .}]", "spec.addressesFrom[0].uplink"},
	{"uplink ..", "addressesFrom: [{uplink: ..}]", "spec.addressesFrom[0].uplink"},
	{"pattern for an uplink", `addressesFrom: [{uplink: "eth*"}]`, "spec.addressesFrom[0].uplink"},
	{"second uplink bad", `addressesFrom: [{uplink: eth1}, {uplink: "**"}]`, "spec.addressesFrom[1].uplink"},
	{"uplink twice", "addressesFrom: [{uplink: eth1}, {uplink: eth2}, {uplink: eth1}]", "spec.addressesFrom"},
	{"16 uplinks", "addressesFrom: " + list(16, "{uplink: eth%d}"), ""},
	{"17 uplinks", "addressesFrom: " + list(17, "{uplink: eth%d}"), "spec.addressesFrom"},
}

var sourceCases = []testCase{
	{"no sources", "allowedSources: null", ""},
	{"empty sources", "allowedSources: []", ""},
	{"everyone", `allowedSources: [0.0.0.0/0, "::/0"]`, ""},
	{"one host", `allowedSources: [10.0.0.1/32, "2001:db8::1/128"]`, ""},
	{"prefix of 33 bits", "allowedSources: [10.0.0.0/33]", "spec.allowedSources[0]"},
	{"prefix of 129 bits", `allowedSources: ["2001:db8::/129"]`, "spec.allowedSources[0]"},
	{"negative prefix", "allowedSources: [10.0.0.0/-1]", "spec.allowedSources[0]"},
	{"prefix with a leading zero", "allowedSources: [10.0.0.0/08]", "spec.allowedSources[0]"},
	{"mask", "allowedSources: [10.0.0.0/255.0.0.0]", "spec.allowedSources[0]"},
	{"address for a network", "allowedSources: [10.0.0.1]", "spec.allowedSources[0]"},
	{"bits beyond the prefix", "allowedSources: [10.0.0.1/16]", "spec.allowedSources[0]"},
	{"bits beyond the prefix, IPv6", `allowedSources: ["2001:db8::1/32"]`, "spec.allowedSources[0]"},
	{"mapped network", `allowedSources: ["::ffff:10.0.0.0/104"]`, "spec.allowedSources[0]"},
	{"network with a zone", `allowedSources: ["fe80::%eth0/64"]`, "spec.allowedSources[0]"},
	{"network twice", "allowedSources: [10.0.0.0/8, 192.168.0.0/16, 10.0.0.0/8]", "spec.allowedSources"},
	{"empty source", `allowedSources: [""]`, "spec.allowedSources[0]"},
	{"third source bad", "allowedSources: [10.0.0.0/8, 192.168.0.0/16, x]", "spec.allowedSources[2]"},
}

var serviceCases = []testCase{
	{"no service", "serviceName: null", "spec.serviceName"},
	{"empty service", `serviceName: ""`, "spec.serviceName"},
	{"service with a digit first", "serviceName: 3scale", ""},
	{"upper case", "serviceName: Echo", "spec.serviceName"},
	{"dot", "serviceName: echo.default", "spec.serviceName"},
	{"another namespace", "serviceName: default/echo", "spec.serviceName"},
	{"dash last", "serviceName: echo-", "spec.serviceName"},
	{"newline", `serviceName: "echo\n"`, "spec.serviceName"},
	{"Unicode", "serviceName: écho", "spec.serviceName"},
	{"no mode", "mode: null", ""},
	{"endpoints", "mode: endpoints", ""},
	{"unknown mode", "mode: magic", "spec.mode"},
	{"mode in another case", "mode: Service", "spec.mode"},
}

var portCases = []testCase{
	{"no ports", "ports: null", "spec.ports"},
	{"empty ports", "ports: []", "spec.ports"},
	{"first and last port", "ports: [{port: 1}, {port: 65535}]", ""},
	{"port 0", "ports: [{port: 0}]", "spec.ports[0].port"},
	{"port 70000", "ports: [{port: 70000}]", "spec.ports[0].port"},
	{"negative port", "ports: [{port: -1}]", "spec.ports[0].port"},
	{"port left out", "ports: [{servicePort: 80}]", "spec.ports[0].port"},
	{"servicePort 65536", "ports: [{port: 80, servicePort: 65536}]", "spec.ports[0].servicePort"},
	{"negative servicePort", "ports: [{port: 80, servicePort: -1}]", "spec.ports[0].servicePort"},
	{"protocols in any case", "ports: [{port: 80, protocol: TCP}, {port: 80, protocol: Udp}, {port: 80, protocol: sCtP}]", ""},
	{"unknown protocol", "ports: [{port: 80, protocol: icmp}]", "spec.ports[0].protocol"},
	{"protocol with a blank", `ports: [{port: 80, protocol: "tcp "}]`, "spec.ports[0].protocol"},
	{"protocol of the letter that folds to k", `ports: [{port: 80, protocol: "ſctp"}]`, "spec.ports[0].protocol"},
	{"port twice", "ports: [{port: 80}, {port: 81}, {port: 80, servicePort: 8080}]", "spec.ports"},
	{"port twice, protocol in another case", "ports: [{port: 80, protocol: TCP}, {port: 80}]", "spec.ports"},
	{"port of two protocols", "ports: [{port: 53}, {port: 53, protocol: udp}]", ""},
	{"second port bad", "ports: [{port: 80}, {port: 70000}]", "spec.ports[1].port"},
}

var rangeCases = []testCase{
	{"range", "mode: endpoints\nports: [{port: 20000, endPort: 20999, protocol: udp}]", ""},
	{"range of one", "mode: endpoints\nports: [{port: 80, endPort: 80}]", ""},
	{"whole range", "mode: endpoints\nports: [{port: 1, endPort: 65535}]", ""},
	{"range in service mode", "ports: [{port: 20000, endPort: 20999}]", "spec.ports"},
	{"range without mode", "mode: null\nports: [{port: 20000, endPort: 20999}]", "spec.ports"},
	{"range backwards", "mode: endpoints\nports: [{port: 20000, endPort: 19999}]", "spec.ports[0].endPort"},
	{"range too far", "mode: endpoints\nports: [{port: 20000, endPort: 65536}]", "spec.ports[0].endPort"},
	{"range to 0", "mode: endpoints\nports: [{port: 20000, endPort: 0}]", "spec.ports[0].endPort"},
	{"offset", "mode: endpoints\nports: [{port: 20000, endPort: 20999, servicePort: 64536}]", ""},
	{"offset beyond the end", "mode: endpoints\nports: [{port: 20000, endPort: 20999, servicePort: 64537}]", "spec.ports[0].servicePort"},
	{"ranges side by side", "mode: endpoints\nports: [{port: 10, endPort: 19}, {port: 20, endPort: 29}]", ""},
	{"ranges that overlap", "mode: endpoints\nports: [{port: 10, endPort: 20}, {port: 20, endPort: 29}]", "spec.ports"},
	{"range within a range", "mode: endpoints\nports: [{port: 10, endPort: 50}, {port: 20, endPort: 29}]", "spec.ports"},
	{"port within a range", "mode: endpoints\nports: [{port: 10, endPort: 50}, {port: 20}]", "spec.ports"},
	{"port within a range of another protocol", "mode: endpoints\nports: [{port: 10, endPort: 50}, {port: 20, protocol: udp}]", ""},
}

// TestWorstCaseIsAffordable evaluates the rules on the largest objects that the schema allows: their cost must stay within the
// budget.
func TestWorstCaseIsAffordable(t *testing.T) {
	sources := make([]string, v1alpha1.MaxAllowedSources)
	for i := range sources {
		sources[i] = fmt.Sprintf(`"2001:db8:%x:%x::/64"`, i/256, i%256)
	}
	for name, spec := range map[string]string{
		"addresses": "addresses: " + list(v1alpha1.MaxAddresses, `"2001:db8:aaaa:bbbb:cccc:dddd:eeee:%04x"`),
		"sources":   "allowedSources: [" + strings.Join(sources, ", ") + "]",
		"ports":     "mode: endpoints\nports: " + list(v1alpha1.MaxPorts, "{port: %[1]d, endPort: %[1]d, servicePort: 80, protocol: SCTP}"),
	} {
		t.Run(name, func(t *testing.T) {
			if errs := newSchema(t, mappingFile).validate(t, toJSON(t, exampleWith(t, spec))); len(errs) > 0 {
				t.Error(errs.ToAggregate())
			}
		})
	}
}

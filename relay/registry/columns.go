// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// columnsByKind has a row for each kind with columns of its own.
var columnsByKind = map[*kinds.Kind]columns{
	kinds.Mapping: mappingColumns, kinds.Service: serviceColumns, kinds.EndpointSlice: sliceColumns, kinds.PortGrant: grantColumns,
}

// columnsOf returns the columns of a kind: by default those that kube-apiserver prints of any object.
func columnsOf(kind *kinds.Kind) columns {
	if c, ok := columnsByKind[kind]; ok {
		return c
	}
	return columns{
		headers: headers("Name", "Age"),
		cells:   func(obj watchcache.Object) ([]any, error) { return []any{obj.GetName(), age(obj)}, nil },
	}
}

// mappingColumns are the columns of the CustomResourceDefinition, as kube-apiserver prints them.
var mappingColumns = columns{
	headers: append(
		[]metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}},
		printed("Addresses", "string", ".status.addresses"),
		printed("Service", "string", ".spec.serviceName"),
		printed("Ports", "string", ".status.ports"),
		printed("Ready", "string", `.status.conditions[?(@.type=="Ready")].status`),
		printed("Reason", "string", `.status.conditions[?(@.type=="Ready")].reason`),
		printed("Age", "date", ".metadata.creationTimestamp"),
		wide(printed("Mode", "string", ".spec.mode")),
		wide(printed("Endpoints", "integer", ".status.endpoints")),
		wide(printed("Gateways", "string", ".status.gateways")),
	),
	cells: func(obj watchcache.Object) ([]any, error) {
		m, ok := obj.(*v1alpha1.Mapping)
		if !ok {
			return nil, fmt.Errorf("unexpected type %T", obj)
		}
		ready := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil {
			ready = &metav1.Condition{}
		}
		cells := []any{m.Name, orNull(m.Status.Addresses), m.Spec.ServiceName, orNull(m.Status.Ports),
			orNull(string(ready.Status)), orNull(ready.Reason), nil, orNull(string(m.Spec.Mode)), nil, orNull(m.Status.Gateways)}
		if !m.CreationTimestamp.IsZero() {
			cells[6] = age(m)
		}
		if n := m.Status.Endpoints; n != nil {
			cells[8] = int64(*n)
		}
		return cells, nil
	},
}

// printed is a column that the CustomResourceDefinition defines by a JSONPath.
// grantColumns are those of the CustomResourceDefinition. Those of the status stay empty, because it does not leave the cluster.
var grantColumns = columns{
	headers: append(
		[]metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}},
		printed("Addresses", "string", ".spec.addresses"),
		printed("Namespaces", "string", ".spec.namespaces"),
		printed("Priority", "integer", ".spec.priority"),
		printed("Accepted", "string", `.status.conditions[?(@.type=="Accepted")].status`),
		printed("Reason", "string", `.status.conditions[?(@.type=="Accepted")].reason`),
		printed("Mappings", "integer", ".status.mappings"),
		printed("Ports", "integer", ".status.ports"),
		printed("Age", "date", ".metadata.creationTimestamp"),
		wide(printed("Sources", "string", ".spec.allowedSources")),
		wide(printed("Selected", "integer", ".status.namespaces")),
	),
	cells: func(obj watchcache.Object) ([]any, error) {
		g, ok := obj.(*v1alpha1.PortGrant)
		if !ok {
			return nil, fmt.Errorf("unexpected type %T", obj)
		}
		cells := []any{g.Name, printList(g.Spec.Addresses), printList(g.Spec.Namespaces), nil, nil, nil, nil, nil, nil, printList(g.Spec.AllowedSources), nil}
		if g.Spec.Priority != 0 {
			cells[3] = int64(g.Spec.Priority)
		}
		if !g.CreationTimestamp.IsZero() {
			cells[8] = age(g)
		}
		return cells, nil
	},
}

// printList prints a list as the API server does for a column of type string.
func printList(values []string) any {
	if len(values) == 0 {
		return nil
	}
	text, err := json.Marshal(values)
	if err != nil { // a list of strings has an encoding
		return nil
	}
	return string(text)
}

func printed(name, kind, path string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{
		Name: name, Type: kind, Description: "Custom resource definition column (in JSONPath format): " + path,
	}
}

// wide marks a column that kubectl prints with -o wide only.
func wide(definition metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	definition.Priority = 1
	return definition
}

// orNull returns the cell of a field that may be unset.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// kube-apiserver prints core kinds with internal code that is no library. These columns are the ones of that code that
// show data which leaves the cluster.
var (
	serviceColumns = columns{
		headers: headers("Name", "Type", "Cluster-IP", "Port(s)", "Age"),
		cells: func(obj watchcache.Object) ([]any, error) {
			s, ok := obj.(*corev1.Service)
			if !ok {
				return nil, fmt.Errorf("unexpected type %T", obj)
			}
			var ports []string
			for _, p := range s.Spec.Ports {
				ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
			}
			return []any{s.Name, string(s.Spec.Type), orNone(s.Spec.ClusterIP), orNone(strings.Join(ports, ",")), age(s)}, nil
		},
	}
	sliceColumns = columns{
		headers: headers("Name", "AddressType", "Ports", "Endpoints", "Age"),
		cells: func(obj watchcache.Object) ([]any, error) {
			s, ok := obj.(*discoveryv1.EndpointSlice)
			if !ok {
				return nil, fmt.Errorf("unexpected type %T", obj)
			}
			var ports, addresses []string
			for _, p := range s.Ports {
				if p.Port == nil {
					ports = append(ports, "*")
					continue
				}
				ports = append(ports, strconv.Itoa(int(*p.Port)))
			}
			for _, e := range s.Endpoints {
				addresses = append(addresses, e.Addresses...)
			}
			return []any{s.Name, string(s.AddressType), joinFirst(ports), joinFirst(addresses), age(s)}, nil
		},
	}
)

func headers(names ...string) []metav1.TableColumnDefinition {
	var definitions []metav1.TableColumnDefinition
	for _, name := range names {
		definition := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if name == "Name" {
			definition.Format = "name"
		}
		definitions = append(definitions, definition)
	}
	return definitions
}

func age(obj metav1.Object) string {
	return metatable.ConvertToHumanReadableDateType(obj.GetCreationTimestamp())
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

// joinFirst joins at most three values and counts the others.
func joinFirst(values []string) string {
	const most = 3
	if len(values) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(values[:most], ","), len(values)-most)
	}
	return orNone(strings.Join(values, ","))
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// mappingPrinterColumns are those of the CustomResourceDefinition.
func mappingPrinterColumns() []apiextensionsv1.CustomResourceColumnDefinition {
	return []apiextensionsv1.CustomResourceColumnDefinition{
		{Name: "Addresses", Type: "string", JSONPath: ".status.addresses"},
		{Name: "Service", Type: "string", JSONPath: ".spec.serviceName"},
		{Name: "Ports", Type: "string", JSONPath: ".status.ports"},
		{Name: "Accepted", Type: "string", JSONPath: `.status.conditions[?(@.type=="Accepted")].status`},
		{Name: "Programmed", Type: "string", JSONPath: `.status.conditions[?(@.type=="Programmed")].status`},
		{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"},
	}
}

// newMappingColumns print Mappings with the code by which kube-apiserver does.
func newMappingColumns() (columns, error) {
	convertor, err := tableconvertor.New(mappingPrinterColumns())
	if err != nil {
		return columns{}, fmt.Errorf("printer columns of Mappings: %w", err)
	}
	sample, err := convertor.ConvertToTable(context.Background(), &v1alpha1.Mapping{}, nil)
	if err != nil {
		return columns{}, fmt.Errorf("printer columns of Mappings: %w", err)
	}
	return columns{
		headers: sample.ColumnDefinitions,
		cells: func(obj watchcache.Object) ([]any, error) {
			table, err := convertor.ConvertToTable(context.Background(), obj, &metav1.TableOptions{NoHeaders: true})
			if err != nil {
				return nil, err
			}
			return table.Rows[0].Cells, nil
		},
	}, nil
}

// The core kinds are printed by code that is inside kube-apiserver and cannot be had as a library; these are the columns
// of it that have anything to say about what leaves the cluster.
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
			return []any{s.Name, string(s.AddressType), few(ports), few(addresses), age(s)}, nil
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

// few keeps a cell short.
func few(values []string) string {
	const most = 3
	if len(values) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(values[:most], ","), len(values)-most)
	}
	return orNone(strings.Join(values, ","))
}

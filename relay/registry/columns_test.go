// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/crds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestMappingsArePrintedAsByKubeAPIServer compares the cells with those of the library that kube-apiserver uses to print
// custom resources.
func TestMappingsArePrintedAsByKubeAPIServer(t *testing.T) {
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(crds.Mapping, &crd); err != nil {
		t.Fatal(err)
	}
	convertor, err := tableconvertor.New(crd.Spec.Versions[0].AdditionalPrinterColumns)
	if err != nil {
		t.Fatal(err)
	}
	whole := newMapping("web", "web")
	whole.CreationTimestamp = metav1.NewTime(time.Now().Add(-25 * time.Hour))
	whole.Status = v1alpha1.MappingStatus{Addresses: "192.0.2.1, 192.0.2.2", Ports: "80/tcp", Endpoints: ptr.To[int32](3), Gateways: "gw1,gw2", Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionResolvedRefs, Status: metav1.ConditionUnknown},
		{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue},
		{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionTrue},
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "NoReadyEndpoints"},
	}}
	for name, m := range map[string]*v1alpha1.Mapping{"new": newMapping("web", "web"), "whole": whole} {
		t.Run(name, func(t *testing.T) {
			want, err := convertor.ConvertToTable(t.Context(), m, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := mappingColumns.cells(m)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.Rows[0].Cells, got); diff != "" {
				t.Errorf("cells -want +got\n%s", diff)
			}
			if diff := cmp.Diff(want.ColumnDefinitions, mappingColumns.headers); diff != "" {
				t.Errorf("headers -want +got\n%s", diff)
			}
		})
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestTableFollowsPortGrants proves that the ConfigMap has the PortGrants of each moment, and that nothing is written twice.
func TestTableFollowsPortGrants(t *testing.T) {
	web := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"shop"}}}
	rows := map[string]string{"lengths4": "32", "covered.192.0.2.1_32": "", "namespace.shop": "0", "grant.0": "web|192.0.2.1/32||||||"}
	required := map[string]string{"required": ""}
	maps.Copy(required, rows)
	for _, test := range []struct {
		name, mode string
		grants     int
		before     map[string]string
		want       map[string]string
		writes     int
		fails      string
	}{
		{"the first one", GrantsOpen, 1, nil, rows, 1, ""},
		{"already written", GrantsOpen, 1, rows, rows, 0, ""},
		{"another client changed it", GrantsOpen, 1, map[string]string{"required": ""}, rows, 1, ""},
		{"the last one is deleted", GrantsOpen, 0, rows, nil, 1, ""},
		{"every address needs one", GrantsRequired, 1, rows, required, 1, ""},
		{"reports only", GrantsReport, 1, rows, nil, 1, ""},
		{"too many", GrantsOpen, 20000, rows, nil, 1, "the admission policy refuses nothing: 20000 PortGrants take"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t, 1)
			for i := range test.grants {
				g := web.DeepCopy()
				if i > 0 {
					g.Name, g.Spec.Namespaces = fmt.Sprint("web-", i), []string{fmt.Sprint("a-namespace-with-a-long-name-", i)}
				}
				if err := c.caches[0].PortGrants().Store().Add(g); err != nil {
					t.Fatal(err)
				}
			}
			client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "smartnat", Name: tableName}, Data: test.before})
			table := &Table{ConfigMaps: client.CoreV1().ConfigMaps("smartnat"), Cache: c.caches[0], Grants: test.mode, Log: logrus.New()}
			for range 2 { // the second time writes nothing
				err := table.Sync(t.Context())
				if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
					t.Errorf("%v, want %q", err, test.fails)
				}
			}
			writes := 0
			for _, action := range client.Actions() {
				if action.GetVerb() != "get" {
					writes++
				}
			}
			got, err := client.CoreV1().ConfigMaps("smartnat").Get(context.Background(), tableName, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got.Data, cmpopts.EquateEmpty()); diff != "" || writes != test.writes {
				t.Errorf("%d writes, want %d; -want +got\n%s", writes, test.writes, diff)
			}
		})
	}
}

func TestTableWithoutItsConfigMap(t *testing.T) {
	c := newCluster(t, 1)
	table := &Table{ConfigMaps: fake.NewClientset().CoreV1().ConfigMaps("smartnat"), Cache: c.caches[0], Grants: GrantsOpen, Log: logrus.New()}
	if err := table.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "apply the manifests of the relay again") {
		t.Errorf("%v", err)
	}
}

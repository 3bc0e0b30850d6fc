// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/generated/clientset/versioned"
)

// TestWhatIsNoListIsNotTakenForAnEmptyOne: the relay would tell all gateways that everything was deleted.
func TestWhatIsNoListIsNotTakenForAnEmptyOne(t *testing.T) {
	const group = `"apiVersion":"smartnat.aureacentral.com/v1alpha1"`
	for name, test := range map[string]struct {
		answer string
		isList bool
	}{
		"an empty list":           {`{"kind":"MappingList",` + group + `,"metadata":{"resourceVersion":"7"},"items":[]}`, true},
		"an empty object":         {`{}`, false},
		"success":                 {`{"kind":"Status","apiVersion":"v1","status":"Success"}`, false},
		"another kind":            {`{"kind":"Mapping",` + group + `,"metadata":{"name":"echo","resourceVersion":"7"}}`, false},
		"a list without version":  {`{"kind":"MappingList",` + group + `,"metadata":{},"items":[]}`, false},
		"a page":                  {`<html>It works!</html>`, false},
		"half a list":             {`{"kind":"MappingList",` + group + `,"metadata":{"resourceVersion":"7"},"items":[`, false},
		"nothing that can be had": {``, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(test.answer))
			}))
			defer server.Close()
			client, err := versioned.NewForConfig(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			list, err := client.SmartnatV1alpha1().Mappings(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
			if err == nil {
				err = isWhole(list)
			}
			if (err == nil) != test.isList {
				t.Errorf("error %v", err)
			}
		})
	}
}

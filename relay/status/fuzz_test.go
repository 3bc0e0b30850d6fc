// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// FuzzReport sends arbitrary reports of gateway gw1 and of other users. Each is either rejected as a client error, or becomes
// the entry of gw1, with addresses of the Mapping and without changes to other entries.
func FuzzReport(f *testing.F) {
	for _, body := range []string{
		good, "", "null", "{}", "[]", "{", good + good, strings.Replace(good, "gw1", "gw2", 1), strings.Replace(good, "192.0.2.1", "192.0.2.9", 1),
		strings.Replace(good, `"endpoints":2`, `"endpoints":-1`, 1), strings.Replace(good, `"status":{`, `"status":{"conditions":[],`, 1),
		strings.Replace(good, `"instances":[`, `"instances":[null,`, 1), strings.Replace(good, "web", "other", 1), "apiVersion: v1\n", good[:40],
	} {
		f.Add("system:serviceaccount:smartnat:gw1", applyPatch, body)
		f.Add("system:serviceaccount:smartnat:gw1", "application/json", body)
	}
	for _, user := range []string{"", "gw2", "system:anonymous", "system:serviceaccount:shop:gw1", "system:serviceaccount:smartnat:", "gw1\x00"} {
		f.Add(user, applyPatch, good)
	}
	f.Fuzz(func(t *testing.T, user, contentType, body string) {
		d := newDesk(t)
		if _, err := d.report(token("system:serviceaccount:smartnat:gw2"), applyPatch, strings.Replace(good, "gw1", "gw2", 1)); err != nil {
			t.Fatal(err)
		}
		_, err := d.report(token(user), contentType, body)
		var status apierrors.APIStatus
		switch {
		case err == nil:
		case !errors.As(err, &status) || status.Status().Code < http.StatusBadRequest || status.Status().Code >= http.StatusInternalServerError:
			t.Errorf("%q by %q is not rejected as a client error: %v", body, user, err)
		}
		for _, i := range d.mappings[key{Namespace: "shop", Name: "web"}].Status.Instances {
			if i.Name != "gw2" && (err != nil || i.Name != strings.TrimPrefix(user, "system:serviceaccount:smartnat:")) {
				t.Errorf("%q by %q, answered with %v, wrote %+v", body, user, err, i)
			}
			if slices.ContainsFunc(i.Addresses, func(a string) bool { return a != "192.0.2.1" }) {
				t.Errorf("%q wrote %+v", body, i)
			}
		}
	})
}

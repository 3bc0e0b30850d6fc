// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"strings"
	"testing"
)

func TestFlowLog(t *testing.T) {
	m := New("1.2.3", &fakeStatus{})
	m.CountFlowLog(func() uint64 { return 7 }, func() uint64 { return 2 })
	documented, err := os.ReadFile("../../systemd/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"smartnat_flow_log_connections_total": " 7\n", "smartnat_flow_log_losses_total": " 2\n"} {
		if got := ours(t, m); !strings.Contains(got, "\n"+name+value) {
			t.Errorf("no %s%s:\n%s", name, value, got)
		}
		if !strings.Contains(string(documented), "`"+name+"`") {
			t.Errorf("%s is not documented", name)
		}
	}
}

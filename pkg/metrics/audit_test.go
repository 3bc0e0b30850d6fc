// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/smartnat/smartnat/pkg/audit"
)

func TestAudit(t *testing.T) {
	m := New("1.2.3", &fakeStatus{})
	m.CountAudit(func() uint64 { return 7 })
	for _, k := range audit.Kinds() {
		m.Audited(k)
	}
	m.Audited(audit.Record{Result: audit.Opened, Reason: audit.ReasonRequested})
	got := ours(t, m)
	for _, want := range []string{
		`smartnat_audit_records_total{reason="Requested",result="opened"} 2`, `smartnat_audit_records_total{reason="NotGranted",result="closed"} 1`,
		`smartnat_audit_records_total{reason="NotGranted",result="refused"} 1`, "smartnat_audit_lines_lost_total 7",
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	documented, err := os.ReadFile("../../systemd/README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(documented), "`smartnat_audit_lines_lost_total`") {
		t.Error("smartnat_audit_lines_lost_total is not documented")
	}
	if problems, err := testutil.GatherAndLint(m); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

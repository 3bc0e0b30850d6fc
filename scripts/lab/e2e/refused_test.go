// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// refuse makes the gateway's iptables-restore fail for input that contains mark, until stop is called.
func (w *world) refuse(ctx context.Context, t *testing.T, mark string) (stop func()) {
	t.Helper()
	gateway := w.Host(lab.Gateway)
	out, err := gateway.Exec(ctx, "sh", "-c", "command -v iptables-restore")
	if err != nil {
		t.Fatal(err)
	}
	program := strings.TrimSpace(out)
	script := fmt.Sprintf(`#!/bin/sh
[ "$1" = --version ] && exec %[1]s.real "$@"
input=$(mktemp) && cat > "$input"
if line=$(grep -n -m 1 -F -e '%[2]s' "$input"); then
	echo "iptables-restore: line ${line%%%%:*} failed" >&2
	status=1
else
	%[1]s.real "$@" < "$input"
	status=$?
fi
rm "$input"
exit $status
`, program, mark)
	if err := gateway.WriteFile(program+".refusing", script); err != nil {
		t.Fatal(err)
	}
	exec := func(commands string) {
		if _, err := gateway.Exec(ctx, "sh", "-ec", commands); err != nil {
			t.Fatal(err)
		}
	}
	exec(fmt.Sprintf("chmod +x %[1]s.refusing; ln %[1]s %[1]s.real; mv %[1]s.refusing %[1]s", program))
	return func() { exec(fmt.Sprintf("mv %[1]s.real %[1]s", program)) }
}

// testRefusedMapping checks a Mapping whose rules iptables refuses in one family: it delays no other Mapping, and works in the other
// family, keeps its old rules, reports the cause, and comes into effect once it changes to accepted rules.
func testRefusedMapping(ctx context.Context, t *testing.T, w *world) {
	const four, six = "198.51.100.12", "2001:db8:1::12"
	refused := func(ports string) string {
		return mappingYAML("odd", "refused", `addresses: [198.51.100.12, "2001:db8:1::12"], serviceName: echo, mode: endpoints, ports: [`+ports+`]`)
	}
	w.apply(t, refused(`{port: 102, servicePort: 8080}`))
	w.await(t, lab.Client, "tcp", lab.Join(four, 102), nil)

	skip := len(w.daemon.Log())
	stop := w.refuse(ctx, t, "--dport 102:103") // both ports lead to the same endpoints, so one rule has both
	w.apply(t, refused(`{port: 102, servicePort: 8080}, {port: 103, servicePort: 8080}`))
	w.awaitLog(ctx, t, skip, "Mapping odd/refused", "IPv4", "RuleRefused", "line", "failed")
	w.apply(t, mappingYAML("odd", "neighbour", `addresses: [198.51.100.12], serviceName: echo, mode: endpoints, ports: [{port: 104, servicePort: 8080}]`))
	for _, address := range []string{lab.Join(four, 104), lab.Join(six, 103), lab.Join(four, 102)} {
		w.await(t, lab.Client, "tcp", address, nil)
	}
	w.awaitRefusal(t, lab.Client, "tcp", lab.Join(four, 103)) // by the host itself, like any port without a Mapping
	if n := w.metric(ctx, t, `smartnat_findings{condition="Programmed",reason="RuleRefused"}`); n != 1 {
		t.Errorf("%v findings in the metrics, want 1", n)
	}

	stop()
	skip = len(w.daemon.Log())
	w.apply(t, refused(`{port: 103, servicePort: 8080}`))
	w.await(t, lab.Client, "tcp", lab.Join(four, 103), nil)
	w.awaitLog(ctx, t, skip, "resolved: Mapping odd/refused", "RuleRefused")
}

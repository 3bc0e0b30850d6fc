// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
)

func TestChangedOwners(t *testing.T) {
	forward := func(owner string, port uint16, backends ...uint16) *gateway.Forward {
		f := &gateway.Forward{Frontend: gateway.Frontend{
			Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: gateway.Port(port),
		}, Owner: "default/" + owner}
		for _, b := range backends {
			f.Backends = append(f.Backends, gateway.Backend{Address: netip.MustParseAddr("10.244.1.10"), Port: b})
		}
		return f
	}
	egress := func(owner string, pods ...string) gateway.Egress {
		e := gateway.Egress{Address: netip.MustParseAddr("198.51.100.10"), Owner: "default/" + owner}
		for _, p := range pods {
			e.Sources = append(e.Sources, netip.MustParseAddr(p))
		}
		return e
	}
	state := func(forwards ...*gateway.Forward) gateway.State { return gateway.State{Forwards: forwards} }
	shared := forward("a", 80, 8080)
	var many []*gateway.Forward
	for i := range uint16(9) {
		many = append(many, forward(fmt.Sprint("m", i), 100+i))
	}
	for _, test := range []struct {
		name         string
		old, current gateway.State
		want         string
	}{
		{"the same", state(shared), state(shared), ""},
		{"equal", state(shared), state(forward("a", 80, 8080)), ""},
		{"new", state(shared), state(shared, forward("b", 81)), "default/b"},
		{"new, before others", state(shared), state(forward("b", 79), shared), "default/b"},
		{"removed", state(forward("b", 79), shared, forward("c", 81)), state(shared), "default/b, default/c"},
		{"another endpoint", state(shared, forward("b", 81, 1)), state(shared, forward("b", 81, 2)), "default/b"},
		{"another owner", state(forward("a", 80)), state(forward("b", 80)), "default/a, default/b"},
		{"egress pods that change", gateway.State{Egresses: []gateway.Egress{egress("a", "10.0.0.1"), egress("b", "10.0.0.2")}},
			gateway.State{Egresses: []gateway.Egress{egress("a", "10.0.0.1"), egress("b", "10.0.0.3")}}, "default/b"},
		{"many", gateway.State{}, state(many...), "default/m0, default/m1, default/m2, default/m3, default/m4 and 4 more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := changedOwners(test.old, test.current); got != test.want {
				t.Errorf("names %q, want %q", got, test.want)
			}
		})
	}
}

// TestParametersThatAreNotPermitted expects one warning as long as the reason is the same.
func TestParametersThatAreNotPermitted(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	c := New(Options{Log: log, Dataplane: &fakeDataplane{}})
	readOnly := errors.New("nf_conntrack_acct: read-only file system")
	for _, err := range []error{readOnly, nil, readOnly, errors.New("nf_conntrack_acct: no such file")} {
		c.logApply(event{}, gateway.State{}, dataplane.Result{NotPermitted: err}, stages{})
	}
	var got []any
	for _, line := range hook.AllEntries() {
		got = append(got, line.Data[logrus.ErrorKey].(error).Error())
	}
	if diff := cmp.Diff([]any{readOnly.Error(), "nf_conntrack_acct: no such file"}, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

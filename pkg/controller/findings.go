// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// findingLog logs each finding once when it appears and once when it is resolved.
type findingLog struct {
	log  logrus.FieldLogger
	open map[finding.Finding]struct{}
	last []finding.Finding
}

func (l *findingLog) report(findings []finding.Finding) {
	if slices.Equal(findings, l.last) {
		return
	}
	l.last = findings
	now := make(map[finding.Finding]struct{}, len(findings))
	for _, f := range findings {
		now[f] = struct{}{}
		if _, known := l.open[f]; !known {
			l.log.WithField("reason", f.Reason).Log(levelOf(f), f.String())
		}
	}
	for f := range l.open {
		if _, still := now[f]; !still {
			l.log.WithField("reason", f.Reason).Log(max(levelOf(f), logrus.InfoLevel), "resolved: "+f.String())
		}
	}
	l.open = now
}

// allRefused returns what Mappings do not get by the calculation, and what they do not get because rules were refused.
func (c *Controller) allRefused(applied gateway.State) []finding.Refused {
	refused := c.calculator.Refused()
	if len(c.quarantine.Refusals()) == 0 {
		return refused
	}
	refused = slices.Clip(refused)
	for wanted, has := range gateway.DifferingForwards(c.state.Forwards, applied.Forwards) {
		if wanted != nil && (has == nil || has.Owner != wanted.Owner) {
			refused = append(refused, finding.Refused{Owner: wanted.Owner, Frontend: wanted.Frontend, Reason: finding.ReasonRuleRefused})
		}
	}
	slices.SortStableFunc(refused, finding.Refused.Compare)
	return refused
}

// levelOf returns the log level of a finding. It is debug if another gateway serves the address.
func levelOf(f finding.Finding) logrus.Level {
	if f.Elsewhere() {
		return logrus.DebugLevel
	}
	return logrus.WarnLevel
}

// allFindings returns the findings of the calculation, and those for refused rules and for source ports that run out.
func (c *Controller) allFindings() []finding.Finding {
	refusals, short := c.quarantine.Refusals(), c.ports.findings()
	if len(refusals)+len(short) == 0 {
		return c.found
	}
	all := append(slices.Clip(c.found), short...)
	for _, r := range refusals {
		namespace, name, _ := strings.Cut(r.Owner, "/")
		what := "were refused"
		if r.Suspected {
			what = "are withheld until it is known which Mapping's rules are refused"
		}
		all = append(all, finding.Finding{
			Namespace: namespace, Name: name, Condition: v1alpha1.ConditionProgrammed, Reason: finding.ReasonRuleRefused, Field: "spec",
			Message: fmt.Sprintf("its rules for IPv%d %s, will retry: %s", r.Family, what, r.Why),
		})
	}
	return all
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/calc"
)

// findingLog tells each finding once when it comes and once when it is gone.
type findingLog struct {
	log  logrus.FieldLogger
	open map[calc.Finding]struct{}
	last []calc.Finding
}

func (l *findingLog) report(findings []calc.Finding) {
	if slices.Equal(findings, l.last) {
		return
	}
	l.last = findings
	now := make(map[calc.Finding]struct{}, len(findings))
	for _, f := range findings {
		now[f] = struct{}{}
		if _, known := l.open[f]; !known {
			l.log.WithField("reason", f.Reason).Warn(f.String())
		}
	}
	for f := range l.open {
		if _, still := now[f]; !still {
			l.log.WithField("reason", f.Reason).Info("no longer: " + f.String())
		}
	}
	l.open = now
}

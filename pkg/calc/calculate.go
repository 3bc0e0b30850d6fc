// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Calculate computes the State that the host should have, and Findings for what it cannot do and why. Findings about the host
// come first; the others are sorted by Mapping, and by field within a Mapping.
func Calculate(snapshot objects.Snapshot, host gateway.Host, cfg config.Config) (gateway.State, []finding.Finding) {
	return NewCalculator(cfg).Calculate(snapshot, host)
}

// calculation computes what single Mappings ask for.
type calculation struct {
	cfg config.Config
	*facts
	*serviceIndex
	granted *granted
	// anyEndpoint is set if the current Mapping may lead to endpoints that are not proven to be pods of its namespace.
	anyEndpoint bool
	// read caches the endpoints of Services.
	read map[readKey]*serviceEndpoints
	// named has what AllowedBy says, so that Forwards share it.
	named map[allowance]*gateway.Allowance
	// candidates is a reused buffer.
	candidates []candidate
	// findings are about the current Mapping.
	findings []finding.Finding
}

// limitPerReason keeps the first Findings of each reason: ten thousand of them help no user, and fit no status.
func limitPerReason(findings []finding.Finding) []finding.Finding {
	const most = 16
	if len(findings) <= most {
		return findings
	}
	last, dropped := map[string]int{}, map[string]int{}
	count := map[string]int{}
	var few []finding.Finding
	for _, f := range findings {
		if count[f.Reason]++; count[f.Reason] > most {
			dropped[f.Reason]++
			continue
		}
		last[f.Reason] = len(few)
		few = append(few, f)
	}
	for reason, n := range dropped {
		few[last[reason]].Message += fmt.Sprintf("; and %d more like this", n)
	}
	return few
}

func (c *calculation) report(m *v1alpha1.Mapping, condition, reason, field, format string, args ...any) {
	c.findings = append(c.findings, finding.New(m, condition, reason, field, format, args...))
}

// reported returns and clears the findings.
func (c *calculation) reported() []finding.Finding {
	findings := c.findings
	c.findings = nil
	return findings
}

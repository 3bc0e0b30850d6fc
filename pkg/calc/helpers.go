// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"

	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// helpersWithoutNAT reports helpers that only read: the server's answer, with the address of a pod, reaches the client unchanged.
func helpersWithoutNAT(host gateway.Host) []finding.Finding {
	var findings []finding.Finding
	for _, name := range host.HelpersWithoutNAT {
		findings = append(findings, finding.Finding{
			Reason: finding.ReasonHelperWithoutNAT, Field: "helpers." + name,
			Message: fmt.Sprintf("the kernel does not translate what the helper reads, so clients get the address of a pod: run 'modprobe nf_nat_%[1]s', "+
				"write nf_nat_%[1]s into a file of /etc/modules-load.d, and run 'systemctl reload smartnatd'", name),
		})
	}
	return findings
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Reasons of the condition Accepted.
const (
	// ReasonAccepted means that the Mapping is valid and has all its ports.
	ReasonAccepted = "Accepted"
	// ReasonInvalid means that the Mapping is invalid and has no effect at all.
	ReasonInvalid = "Invalid"
	// ReasonNotGranted means that a PortGrant covers an address, and none gives the namespace what the Mapping asks for there. Only
	// that has no effect. The message says what would be granted.
	ReasonNotGranted = "NotGranted"
	// ReasonPortConflict means that an older Mapping has some of the ports. Only these have no effect, even if they are
	// part of a range.
	ReasonPortConflict = "PortConflict"
)

// mostNamed bounds the number of items in a message.
const mostNamed = 4

func accepted(m *v1alpha1.Mapping, errs field.ErrorList, lost conflicts.Lost) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse}
	switch {
	case len(errs) > 0:
		var texts []string
		for _, err := range errs {
			texts = append(texts, err.Error())
		}
		c.Reason, c.Message = ReasonInvalid, joinFirst(texts, "; ")
	case len(lost.Refusals) > 0:
		var texts []string
		for _, l := range lost.Refusals {
			texts = append(texts, l.String())
		}
		c.Reason, c.Message = ReasonNotGranted, fewOf(texts, len(texts)+lost.MoreRefusals, "; ")
	case len(lost.Conflicts) > 0:
		var texts []string
		for _, l := range lost.Conflicts {
			texts = append(texts, fmt.Sprintf("%s belongs to Mapping %s/%s, which %s",
				l.Ports, l.Winner.Namespace, l.Winner.Name, conflicts.Precedence(l.Winner, m)))
		}
		c.Reason, c.Message = ReasonPortConflict, fewOf(texts, len(texts)+lost.More, "; ")
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonAccepted, "valid, and in conflict with no other Mapping"
		if len(m.Spec.AddressesFrom) > 0 {
			c.Message = "valid, and no older Mapping names its addresses and ports; gateways check the addresses of uplinks"
		}
		if m.Spec.Mode == v1alpha1.ModeService && m.Spec.Masquerade != nil && !*m.Spec.Masquerade {
			c.Message += "; masquerade: false has no effect in mode service, because the cluster replaces the client's address with a node's: use mode endpoints to keep it"
		}
	}
	return c
}

// joinFirst joins the first items of texts.
func joinFirst(texts []string, separator string) string { return fewOf(texts, len(texts), separator) }

// fewOf joins the first items of a list of length all, of which texts may be only the beginning.
func fewOf(texts []string, all int, separator string) string {
	texts = texts[:min(len(texts), mostNamed)]
	if len(texts) == all {
		return strings.Join(texts, separator)
	}
	return fmt.Sprintf("%s%sand %d more", strings.Join(texts, separator), separator, all-len(texts))
}

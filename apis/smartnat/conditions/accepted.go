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

// The reasons of Accepted.
const (
	ReasonAccepted = "Accepted"
	// ReasonInvalid: the whole Mapping stays out.
	ReasonInvalid = "Invalid"
	// ReasonPortConflict: an older Mapping has ports that it asks for; these alone stay out.
	ReasonPortConflict = "PortConflict"
)

// mostNamed is how many things of a kind a message names.
const mostNamed = 4

func accepted(m *v1alpha1.Mapping, errs field.ErrorList, lost []conflicts.Conflict) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse}
	switch {
	case len(errs) > 0:
		var texts []string
		for _, err := range errs {
			texts = append(texts, err.Error())
		}
		c.Reason, c.Message = ReasonInvalid, few(texts, "; ")
	case len(lost) > 0:
		var texts []string
		for _, l := range lost {
			texts = append(texts, fmt.Sprintf("%s belongs to Mapping %s/%s, which %s",
				l.Ports, l.Winner.Namespace, l.Winner.Name, conflicts.Precedence(l.Winner, m)))
		}
		c.Reason, c.Message = ReasonPortConflict, few(texts, "; ")
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonAccepted, "valid, and all of its ports are its own"
	}
	return c
}

// few joins the first of many.
func few(texts []string, separator string) string {
	if len(texts) <= mostNamed {
		return strings.Join(texts, separator)
	}
	return fmt.Sprintf("%s%sand %d more", strings.Join(texts[:mostNamed], separator), separator, len(texts)-mostNamed)
}

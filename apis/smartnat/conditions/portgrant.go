// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// Further reasons of the condition Accepted of a PortGrant, which is true with these.
const (
	// ReasonNoNamespaces means that no namespace that exists is selected, so none may use the addresses by this PortGrant.
	ReasonNoNamespaces = "NoNamespaces"
	// ReasonNamespaceNotFound means that some of the named namespaces do not exist.
	ReasonNamespaceNotFound = "NamespaceNotFound"
	// ReasonAllNamespaces means that an empty selector selects all namespaces, also those that come later.
	ReasonAllNamespaces = "AllNamespaces"
	// ReasonOverlapping means that other PortGrants give the same ports to one of the namespaces.
	ReasonOverlapping = "Overlapping"
)

// OfPortGrant returns the status of a PortGrant. The time of a condition that holds already stays.
func OfPortGrant(g *v1alpha1.PortGrant, s grants.Selection, use conflicts.Use, now metav1.Time) v1alpha1.PortGrantStatus {
	c := metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: ReasonAccepted, Message: "valid",
		ObservedGeneration: g.Generation, LastTransitionTime: now,
	}
	if errs := validation.ValidatePortGrant(g); len(errs) > 0 {
		var texts []string
		for _, err := range errs {
			texts = append(texts, err.Error())
		}
		c.Status, c.Reason = metav1.ConditionFalse, ReasonInvalid
		c.Message = "grants nothing, and keeps its addresses from all: " + joinFirst(texts, "; ")
	} else if notes := notesOn(s); len(notes) > 0 {
		var texts []string
		for _, n := range notes {
			texts = append(texts, n.message)
		}
		c.Reason, c.Message = notes[0].reason, strings.Join(texts, "; ")
	}
	if is := meta.FindStatusCondition(g.Status.Conditions, c.Type); is != nil && is.Status == c.Status {
		c.LastTransitionTime = is.LastTransitionTime
	}
	return v1alpha1.PortGrantStatus{
		Conditions: []metav1.Condition{c}, Namespaces: count(s.Namespaces), Mappings: count(use.Mappings), Ports: count(use.Ports),
	}
}

// note is what an administrator should know about a valid PortGrant.
type note struct{ reason, message string }

// notesOn returns the notes, the most important first.
func notesOn(s grants.Selection) (notes []note) {
	missing := "namespace " + joinFirst(s.Missing, ", ") + " does not exist"
	if len(s.Missing) > 1 {
		missing = "namespaces " + joinFirst(s.Missing, ", ") + " do not exist"
	}
	switch {
	case s.Namespaces == 0 && len(s.Missing) > 0:
		notes = append(notes, note{ReasonNoNamespaces, missing})
	case s.Namespaces == 0:
		notes = append(notes, note{ReasonNoNamespaces, "namespaceSelector matches no namespace"})
	case len(s.Missing) > 0:
		notes = append(notes, note{ReasonNamespaceNotFound, missing})
	}
	if s.All {
		notes = append(notes, note{ReasonAllNamespaces, "the empty namespaceSelector selects all namespaces, also those that come later"})
	}
	if len(s.Overlaps) > 0 {
		notes = append(notes, note{ReasonOverlapping, "some of the same ports are also granted by " + joinFirst(s.Overlaps, ", ") +
			"; grants add up, and the higher priority decides about a port"})
	}
	return notes
}

func count(n int) *int32 { return ptr.To(int32(min(n, math.MaxInt32))) }

// HoldsPortGrant reports whether a PortGrant has the status already.
func HoldsPortGrant(have, decided v1alpha1.PortGrantStatus) bool {
	return equality.Semantic.DeepEqual(have, decided)
}

// ApplyPortGrant returns the body of a server-side apply of a status. It fails if the PortGrant has changed since live.
func ApplyPortGrant(live *v1alpha1.PortGrant, status v1alpha1.PortGrantStatus) ([]byte, error) {
	body, err := json.Marshal(struct {
		APIVersion string                   `json:"apiVersion"`
		Kind       string                   `json:"kind"`
		Metadata   map[string]string        `json:"metadata"`
		Status     v1alpha1.PortGrantStatus `json:"status"`
	}{
		v1alpha1.SchemeGroupVersion.String(), "PortGrant",
		map[string]string{"name": live.Name, "uid": string(live.UID), "resourceVersion": live.ResourceVersion}, status,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the status of PortGrant %s: %w", live.Name, err)
	}
	return body, nil
}

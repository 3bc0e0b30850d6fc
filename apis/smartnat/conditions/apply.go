// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Applied is the body of a server-side apply of the status of a Mapping. It holds the fields of one field manager.
type Applied struct {
	APIVersion string                 `json:"apiVersion"`
	Kind       string                 `json:"kind"`
	Metadata   AppliedMetadata        `json:"metadata"`
	Status     v1alpha1.MappingStatus `json:"status"`
}

// AppliedMetadata identifies the Mapping.
type AppliedMetadata struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// UID, if set, makes the apply fail if the Mapping was recreated.
	UID types.UID `json:"uid,omitempty"`
	// ResourceVersion, if set, makes the apply fail if the Mapping has changed since.
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// Apply returns the body of a server-side apply.
func Apply(meta AppliedMetadata, status v1alpha1.MappingStatus) ([]byte, error) {
	body, err := json.Marshal(Applied{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Mapping", Metadata: meta, Status: status,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the status of Mapping %s/%s: %w", meta.Namespace, meta.Name, err)
	}
	return body, nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshotfile

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/objects"
)

const (
	format  = "smartnat-objects"
	version = 1
)

// Saved is a Snapshot with its origin and time.
type Saved struct {
	objects.Snapshot
	// Origin are the servers that it may have come from.
	Origin []string
	// At is the time of saving.
	At time.Time
	// Rejected has a line with name and reason for each object in the file that an API server would have rejected. The Snapshot
	// does not contain them.
	Rejected []string
}

// From reports whether it came from one of the servers.
func (s Saved) From(origin []string) bool {
	return slices.ContainsFunc(origin, func(server string) bool { return slices.Contains(s.Origin, server) })
}

type header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Origin  []string  `json:"origin"`
	At      time.Time `json:"at"`
	// Proofs is set if Services have their selectors and EndpointSlices have their managed-by label. Older versions saved
	// neither; they ignore the key, so that a downgrade can use the file.
	Proofs bool `json:"proofs"`
}

type end struct {
	Objects int    `json:"objects"`
	SHA256  string `json:"sha256"`
}

func encode(to io.Writer, s Saved) error {
	buffered, sum := bufio.NewWriter(to), sha256.New()
	lines := json.NewEncoder(io.MultiWriter(buffered, sum))
	if err := lines.Encode(header{Format: format, Version: version, Origin: s.Origin, At: s.At, Proofs: true}); err != nil {
		return err
	}
	n := 0
	for _, kind := range objects.Kinds() {
		for _, object := range kind.All(&s.Snapshot) {
			if err := lines.Encode(map[string]any{kind.Key: object}); err != nil {
				return err
			}
			n++
		}
	}
	if err := lines.Encode(end{Objects: n, SHA256: hex.EncodeToString(sum.Sum(nil))}); err != nil {
		return err
	}
	return buffered.Flush()
}

// decode reads a complete file or nothing.
func decode(text []byte) (Saved, error) {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	var h header
	if err := json.Unmarshal(first, &h); err != nil || h.Format != format {
		return Saved{}, fmt.Errorf("lacks the header of format %s", format)
	}
	if h.Version != version {
		return Saved{}, fmt.Errorf("is of version %d of its format, must be %d", h.Version, version)
	}
	body, last := cutLast(text)
	var e end
	if err := json.Unmarshal(last, &e); err != nil || e.SHA256 == "" {
		return Saved{}, fmt.Errorf("is cut off after %d bytes", len(text))
	}
	if sum := sha256.Sum256(body); e.SHA256 != hex.EncodeToString(sum[:]) {
		return Saved{}, fmt.Errorf("is damaged: its SHA-256 is %x, must be %s", sum, e.SHA256)
	}
	saved := Saved{Origin: h.Origin, At: h.At}
	n, table := 0, objects.Kinds()
	for text := range bytes.Lines(body[min(len(first)+1, len(body)):]) {
		n++
		kind, object, err := decodeLine(text, table)
		if err != nil {
			return Saved{}, fmt.Errorf("has no valid object in line %d: %w", n+1, err)
		}
		if !h.Proofs {
			prove(object)
		}
		if kind != nil && saved.admits(object) {
			kind.Add(&saved.Snapshot, object)
		}
	}
	if n != e.Objects {
		return Saved{}, fmt.Errorf("holds %d objects, must hold %d", n, e.Objects)
	}
	return saved, nil
}

// decodeLine reads a line, which is an object under the key of its kind. It returns nil for a kind that this version does not
// know.
func decodeLine(text []byte, table []objects.Kind) (*objects.Kind, kinds.Object, error) {
	var line map[string]json.RawMessage
	if err := json.Unmarshal(text, &line); err != nil {
		return nil, nil, err
	}
	for i := range table {
		raw, found := line[table[i].Key]
		if !found || string(raw) == "null" {
			continue
		}
		object := table[i].New()
		if err := json.Unmarshal(raw, object); err != nil {
			return nil, nil, err
		}
		return &table[i], object, nil
	}
	return nil, nil, nil
}

// prove makes an object of a file without proofs count as proven. The version that saved it used all endpoints alike, and an
// upgrade with a reboot must keep them until the cluster is read. That is safe: a tenant can write objects, but not this file.
func prove(object kinds.Object) {
	switch o := object.(type) {
	case *corev1.Service:
		if len(o.Spec.Selector) == 0 {
			o.Spec.Selector = map[string]string{"saved": "without-selector"}
		}
	case *discoveryv1.EndpointSlice:
		metav1.SetMetaDataLabel(&o.ObjectMeta, discoveryv1.LabelManagedBy, calc.SliceController)
	}
}

// admits reports whether an API server would have stored an object: a valid checksum only proves that we wrote the file, not
// that its content is valid.
func (s *Saved) admits(object metav1.Object) bool {
	err := objects.Validate(object)
	if err != nil {
		s.Rejected = append(s.Rejected, fmt.Sprintf("%s: %v", objects.ID(object), err))
	}
	return err == nil
}

// cutLast splits off the last line, which ends the text.
func cutLast(text []byte) (before, last []byte) {
	if !bytes.HasSuffix(text, []byte("\n")) {
		return text, nil
	}
	at := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	return text[:at], text[at:]
}

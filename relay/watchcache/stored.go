// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import "k8s.io/apimachinery/pkg/types"

// storedObject is an object of the cluster, visible or not.
type storedObject struct {
	key types.NamespacedName
	// service is the Service that decides with the object's key whether it is visible (filter.Kind), or the zero value.
	service types.NamespacedName
	// object is the stripped object. Most objects of a cluster are never visible: those are packed as protobuf, and object
	// is nil.
	object Object
	packed []byte
	// nodes are those of the endpoints, which the stripped object lacks.
	nodes []string
}

// newStored strips an object of the kind.
func (r *Resource) newStored(obj Object) *storedObject {
	stripped := r.kind.Strip(obj)
	stored := &storedObject{key: keyOf(stripped), object: stripped}
	if r.kind.Nodes != nil {
		stored.nodes = r.kind.Nodes(obj)
	}
	if service, ok := r.kind.Service(stripped); ok {
		stored.service = service
	}
	return stored
}

// message is an object with a protobuf encoding.
type message interface {
	Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// pack replaces the object by its protobuf encoding, which takes less memory. It leaves the object alone if its kind has
// no encoding or the encoding does not decode again.
func (r *Resource) pack(s *storedObject) {
	m, ok := s.object.(message)
	if !ok {
		return
	}
	packed, err := m.Marshal()
	if err != nil {
		return
	}
	if _, ok := r.read(packed); ok {
		s.object, s.packed = nil, packed
	}
}

// unpack reverses pack.
func (r *Resource) unpack(s *storedObject) {
	if s.object != nil {
		return
	}
	if obj, ok := r.read(s.packed); ok { // always true: pack has verified it
		s.object, s.packed = obj, nil
	}
}

// read decodes a packed object. The encoding holds neither the kind nor the difference between empty and absent lists;
// Strip restores both.
func (r *Resource) read(packed []byte) (Object, bool) {
	m, ok := r.kind.New().(message)
	if !ok || m.Unmarshal(packed) != nil {
		return nil, false
	}
	return r.kind.Strip(m), true
}

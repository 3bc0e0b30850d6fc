// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import "k8s.io/apimachinery/pkg/types"

// held is the state of an object of the cluster, visible or not.
type held struct {
	key types.NamespacedName
	// service is the Service that a Mapping names, that an EndpointSlice backs, or the Service itself; none if there is
	// none.
	service types.NamespacedName
	// object is the stripped object. Most objects of a cluster are never visible: those are packed as protobuf, and object
	// is nil.
	object Object
	packed []byte
}

// message is an object with a protobuf encoding.
type message interface {
	Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// pack replaces the object by its protobuf encoding, which takes less memory. It leaves the object alone if its kind has
// no encoding or the encoding does not decode again.
func (r *Resource) pack(h *held) {
	m, ok := h.object.(message)
	if !ok {
		return
	}
	packed, err := m.Marshal()
	if err != nil {
		return
	}
	if _, ok := r.read(packed); ok {
		h.object, h.packed = nil, packed
	}
}

// unpack reverses pack.
func (r *Resource) unpack(h *held) {
	if h.object != nil {
		return
	}
	if obj, ok := r.read(h.packed); ok { // always true: pack has verified it
		h.object, h.packed = obj, nil
	}
}

// read decodes a packed object. The encoding holds neither the kind nor the difference between empty and absent lists;
// strip restores both.
func (r *Resource) read(packed []byte) (Object, bool) {
	m, ok := r.empty().(message)
	if !ok || m.Unmarshal(packed) != nil {
		return nil, false
	}
	return r.strip(m)
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import "k8s.io/apimachinery/pkg/types"

// held is what is known of an object of the cluster, whether anybody may see it or not.
type held struct {
	key types.NamespacedName
	// service is the Service that a Mapping names, that an EndpointSlice backs, or that a Service is; empty when there is
	// none.
	service types.NamespacedName
	// object is what may leave the cluster of it. Most of a cluster is never seen by anybody: that is packed as protobuf,
	// and object is nil.
	object Object
	packed []byte
}

// message is what an object that can be packed can do besides.
type message interface {
	Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// pack makes an object small, if its kind can be packed. What could not be read again is left as it is.
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

// unpack is the reverse of pack.
func (r *Resource) unpack(h *held) {
	if h.object != nil {
		return
	}
	if obj, ok := r.read(h.packed); ok { // always: pack has tried
		h.object, h.packed = obj, nil
	}
}

// read reads what is packed. That says neither of which kind it is nor which of its lists are empty rather than absent; to
// strip it says both.
func (r *Resource) read(packed []byte) (Object, bool) {
	m, ok := r.empty().(message)
	if !ok || m.Unmarshal(packed) != nil {
		return nil, false
	}
	return r.strip(m)
}

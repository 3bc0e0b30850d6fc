// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/filter"
)

// Object is an object of any kind.
type Object = kinds.Object

// View selects how much of an object a client gets.
type View int

const (
	// Whole is everything that leaves the cluster.
	Whole View = iota
	// ForGateway is the part of Whole that a gateway needs.
	ForGateway
	// ForNode is ForGateway with the nodes of endpoints, for a gateway that is a node.
	ForNode
	views
)

// Entry is a visible object at one version. It is immutable, and each encoding of it is made once and shared by all
// clients.
type Entry struct {
	Object  Object
	Version Version

	kind *kinds.Kind
	// nodes are those of the endpoints. They are in no other view than ForNode, and so not in Object.
	nodes          []string
	json, protobuf [views]encoding
}

// encoding is one encoding of an object, made on first use.
type encoding struct {
	once sync.Once
	data []byte
	err  error
}

// newEntry returns an Entry of obj, with the nodes of its endpoints, at version v. It copies obj as far as needed, because the reflector's side keeps using
// it.
func newEntry(kind *kinds.Kind, obj Object, nodes []string, v Version) *Entry {
	return &Entry{Object: kind.WithVersion(obj, v.String()), Version: v, kind: kind, nodes: nodes}
}

// JSON returns the object as JSON. Callers must not modify it.
func (e *Entry) JSON(view View) ([]byte, error) {
	return e.encode(&e.json[view], view, func(obj Object) ([]byte, error) { return json.Marshal(obj) })
}

// Protobuf returns the protobuf message of the object, without the Kubernetes envelope (runtime.Unknown). It fails for
// kinds that a CustomResourceDefinition defines, because they have no message. Callers must not modify the result.
func (e *Entry) Protobuf(view View) ([]byte, error) {
	return e.encode(&e.protobuf[view], view, func(obj Object) ([]byte, error) {
		message, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, fmt.Errorf("%T has no protobuf encoding", obj)
		}
		return message.Marshal()
	})
}

func (e *Entry) encode(as *encoding, view View, marshal func(Object) ([]byte, error)) ([]byte, error) {
	as.once.Do(func() {
		obj := e.Object
		switch view {
		case ForGateway:
			obj = e.kind.ForGateway(obj)
		case ForNode:
			obj = e.kind.ForGateway(filter.WithNodes(obj, e.nodes))
		}
		if as.data, as.err = marshal(obj); as.err != nil {
			as.err = fmt.Errorf("encoding %s/%s: %w", e.Object.GetNamespace(), e.Object.GetName(), as.err)
		}
	})
	return as.data, as.err
}

// Event is one change. Object is the state from Version on, or, for a deletion, the last state at Version.
type Event struct {
	Type    watch.EventType
	Version Version
	Object  *Entry
	// Old is the previous state, nil if the object was added.
	Old *Entry
	// Minor marks a change of fields that gateways do not need.
	Minor bool
	// At is the time of the event in this process.
	At time.Time
}

// At returns the object at a later version, for clients whose selector it no longer matches.
func (e *Entry) At(v Version) *Entry { return newEntry(e.kind, e.Object, e.nodes, v) }

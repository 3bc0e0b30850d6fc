// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"

	"github.com/smartnat/smartnat/apis/kinds"
)

// codecs are the codecs of a client, which also decode watch events and errors.
type codecs struct {
	runtime.NegotiatedSerializer
	types []runtime.SerializerInfo
}

func newCodecs() codecs {
	scheme := newScheme()
	for _, kind := range kinds.All() {
		metav1.AddToGroupVersion(scheme, kind.GroupVersion())
	}
	c := codecs{NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion()}
	fast := json.NewSerializerWithOptions(newLeadingKind(kinds.All()), scheme, scheme, json.SerializerOptions{})
	for _, info := range c.NegotiatedSerializer.SupportedMediaTypes() {
		if info.MediaType == runtime.ContentTypeJSON {
			info.Serializer = fast
			info.StreamSerializer = &runtime.StreamSerializerInfo{EncodesAsText: true, Serializer: fast, Framer: json.Framer}
		}
		c.types = append(c.types, info)
	}
	return c
}

// SupportedMediaTypes implements runtime.NegotiatedSerializer.
func (c codecs) SupportedMediaTypes() []runtime.SerializerInfo { return c.types }

// leadingKind finds the kind of a JSON object in its first bytes, where every known server writes it. For any other text it parses
// the whole object, as client-go always does; with many Mappings, that takes as long as decoding them.
type leadingKind struct {
	known []knownStart
	json.SimpleMetaFactory
}

type knownStart struct {
	text []byte
	kind schema.GroupVersionKind
}

func newLeadingKind(all []*kinds.Kind) leadingKind {
	// A frame of a watch says no kind: the decoder expects a WatchEvent.
	known := []knownStart{{text: []byte(`{"type":"`)}}
	for _, k := range all {
		version := k.GroupVersion().String()
		for _, kind := range []schema.GroupVersionKind{k.GroupVersion().WithKind(k.Kind), k.GroupVersion().WithKind(k.Kind + "List")} {
			known = append(known,
				knownStart{fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, kind.Kind, version), kind},
				knownStart{fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,`, version, kind.Kind), kind})
		}
	}
	return leadingKind{known: known}
}

// Interpret implements json.MetaFactory.
func (l leadingKind) Interpret(data []byte) (*schema.GroupVersionKind, error) {
	for _, k := range l.known {
		if bytes.HasPrefix(data, k.text) {
			kind := k.kind
			return &kind, nil
		}
	}
	return l.SimpleMetaFactory.Interpret(data)
}

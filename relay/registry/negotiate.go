// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// offer is what answers can be written in, the first where the client does not mind. Negotiation asks for no more of a
// serializer than that.
type offer struct {
	runtime.NegotiatedSerializer
	infos []runtime.SerializerInfo
}

func newOffer(mediaTypes ...string) offer {
	var o offer
	for _, m := range mediaTypes {
		kind, subType, _ := strings.Cut(m, "/")
		o.infos = append(o.infos, runtime.SerializerInfo{
			MediaType: m, MediaTypeType: kind, MediaTypeSubType: subType, StreamSerializer: &runtime.StreamSerializerInfo{},
		})
	}
	return o
}

// SupportedMediaTypes are those of the offer.
func (o offer) SupportedMediaTypes() []runtime.SerializerInfo { return o.infos }

var (
	// anyEncoding is JSON, unless a client likes protobuf better.
	anyEncoding = newOffer(runtime.ContentTypeJSON, runtime.ContentTypeProtobuf)
	// onlyJSON is for those who have no protobuf message.
	onlyJSON = newOffer(runtime.ContentTypeJSON)
)

// form is what an object is shown as.
type form string

const (
	asItself   form = ""
	asTable    form = "Table"
	asMetadata form = "PartialObjectMetadata"
)

// accepted is what a client would like an answer to be: its form, its encoding, and how much of each object, which matters
// where objects are shown as themselves.
type accepted struct {
	form     form
	encoding encoding
	view     watchcache.View
}

// transforms are the forms that can be asked for, by the kinds of the answers.
type transforms map[string]form

// A single object, and each of a watch, has another kind of its metadata than a list.
var (
	ofOne  = transforms{"Table": asTable, "PartialObjectMetadata": asMetadata}
	ofMany = transforms{"Table": asTable, "PartialObjectMetadataList": asMetadata}
)

func (t transforms) AllowsMediaTypeTransform(_, subType string, target *schema.GroupVersionKind) bool {
	if target == nil {
		return true
	}
	form, ok := t[target.Kind]
	// Tables have no protobuf encoding.
	return ok && target.GroupVersion() == metav1.SchemeGroupVersion && (form != asTable || subType == "json")
}
func (transforms) AllowsServerVersion(string) bool  { return false }
func (transforms) AllowsStreamSchema(s string) bool { return s == "watch" }

// negotiate reads the Accept header; it fails when that allows nothing that the relay can write of the resource.
func (r *resource) negotiate(req *http.Request, forms transforms) (accepted, error) {
	media, info, err := negotiation.NegotiateOutputMediaType(req, r.offer, forms)
	if err != nil {
		return accepted{}, err
	}
	a := accepted{encoding: encodings[info.MediaType]}
	switch {
	case media.Convert != nil:
		a.form = forms[media.Convert.Kind]
	case media.Profile == v1alpha1.GatewayProfile:
		a.view = watchcache.ForGateway
	}
	return a, nil
}

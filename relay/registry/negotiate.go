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

// offer is a list of media types, the default first. Negotiation uses no other method of a NegotiatedSerializer.
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

// SupportedMediaTypes returns the media types of the offer.
func (o offer) SupportedMediaTypes() []runtime.SerializerInfo { return o.infos }

var (
	// anyEncoding offers JSON, the default, and protobuf.
	anyEncoding = newOffer(runtime.ContentTypeJSON, runtime.ContentTypeProtobuf)
	// onlyJSON is for kinds without a protobuf message.
	onlyJSON = newOffer(runtime.ContentTypeJSON)
)

// form is the representation of an object.
type form string

const (
	asItself   form = ""
	asTable    form = "Table"
	asMetadata form = "PartialObjectMetadata"
)

// accepted is the result of content negotiation: form, encoding and view. The view applies to asItself only.
type accepted struct {
	form     form
	encoding encoding
	view     watchcache.View
}

// transforms maps the kinds that a client may ask for to forms.
type transforms map[string]form

// The metadata of a list has its own kind. Single objects and watch events use the other.
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

// negotiate evaluates the Accept header. It fails if the client accepts no media type of the resource. nodes is set for gateways that get
// the nodes of endpoints.
func (r *resource) negotiate(req *http.Request, forms transforms, nodes bool) (accepted, error) {
	media, info, err := negotiation.NegotiateOutputMediaType(req, r.offer, forms)
	if err != nil {
		return accepted{}, err
	}
	a := accepted{encoding: encodings[info.MediaType]}
	switch {
	case media.Convert != nil:
		a.form = forms[media.Convert.Kind]
	case media.Profile == v1alpha1.GatewayProfile && nodes:
		a.view = watchcache.ForNode
	case media.Profile == v1alpha1.GatewayProfile:
		a.view = watchcache.ForGateway
	}
	return a, nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Client has a REST client for each API group that the relay uses.
type Client struct {
	groups map[schema.GroupVersion]rest.Interface
}

// New returns a Client. It does not connect yet; all REST clients share one transport.
func New(config *rest.Config) (*Client, error) {
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	scheme := newScheme()
	codecs := rest.CodecFactoryForGeneratedClient(scheme, serializer.NewCodecFactory(scheme)).WithoutConversion()
	c := &Client{groups: map[schema.GroupVersion]rest.Interface{}}
	for group := range used() {
		of := rest.CopyConfig(config)
		of.GroupVersion, of.APIPath, of.NegotiatedSerializer = &group, "/apis", codecs
		if group.Group == corev1.GroupName {
			of.APIPath = "/api"
		}
		if c.groups[group], err = rest.RESTClientForConfigAndClient(of, httpClient); err != nil {
			return nil, fmt.Errorf("%s: %w", group, err)
		}
	}
	return c, nil
}

// used returns the kinds that the relay sends and receives, apart from those that it serves (package kinds).
func used() map[schema.GroupVersion][]runtime.Object {
	used := map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion:           {&corev1.Event{}, &corev1.Secret{}, &corev1.ConfigMap{}, &corev1.ServiceAccount{}, &corev1.ServiceAccountList{}},
		coordinationv1.SchemeGroupVersion:   {&coordinationv1.Lease{}, &coordinationv1.LeaseList{}},
		authenticationv1.SchemeGroupVersion: {&authenticationv1.TokenReview{}, &authenticationv1.TokenRequest{}},
		authorizationv1.SchemeGroupVersion:  {&authorizationv1.SubjectAccessReview{}},
	}
	for _, kind := range kinds.All() {
		used[kind.GroupVersion()] = append(used[kind.GroupVersion()], kind.New(), kind.NewList())
	}
	return used
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	// Objects such as Status have this version.
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for group, objects := range used() {
		scheme.AddKnownTypes(group, objects...)
		metav1.AddToGroupVersion(scheme, group)
	}
	return scheme
}

// Of returns a client for the objects of a kind in a namespace, or in all if it is empty.
func (c *Client) Of(kind *kinds.Kind, namespace string) *gentype.ClientWithList[kinds.Object, runtime.Object] {
	var options []gentype.Option[kinds.Object]
	if kind.Protobuf {
		options = append(options, gentype.PrefersProtobuf[kinds.Object]())
	}
	return gentype.NewClientWithList(kind.Resource, c.groups[kind.GroupVersion()], metav1.ParameterCodec, namespace, kind.New, kind.NewList, options...)
}

// Mappings returns a client for the Mappings of a namespace, or of all if it is empty.
func (c *Client) Mappings(namespace string) *gentype.ClientWithList[*v1alpha1.Mapping, *v1alpha1.MappingList] {
	return gentype.NewClientWithList("mappings", c.groups[v1alpha1.SchemeGroupVersion], metav1.ParameterCodec, namespace,
		newOf[v1alpha1.Mapping], newOf[v1alpha1.MappingList])
}

// PortGrants returns a client for PortGrants.
func (c *Client) PortGrants() *gentype.ClientWithList[*v1alpha1.PortGrant, *v1alpha1.PortGrantList] {
	return gentype.NewClientWithList("portgrants", c.groups[v1alpha1.SchemeGroupVersion], metav1.ParameterCodec, "",
		newOf[v1alpha1.PortGrant], newOf[v1alpha1.PortGrantList])
}

// Leases returns a client for the Leases of a namespace.
func (c *Client) Leases(namespace string) *gentype.ClientWithList[*coordinationv1.Lease, *coordinationv1.LeaseList] {
	return gentype.NewClientWithList("leases", c.groups[coordinationv1.SchemeGroupVersion], metav1.ParameterCodec, namespace,
		newOf[coordinationv1.Lease], newOf[coordinationv1.LeaseList], gentype.PrefersProtobuf[*coordinationv1.Lease]())
}

// Events returns a client for the Events of a namespace.
func (c *Client) Events(namespace string) *gentype.Client[*corev1.Event] {
	return gentype.NewClient("events", c.groups[corev1.SchemeGroupVersion], metav1.ParameterCodec, namespace,
		newOf[corev1.Event], gentype.PrefersProtobuf[*corev1.Event]())
}

// Secrets returns a client for the Secrets of a namespace.
func (c *Client) Secrets(namespace string) *gentype.Client[*corev1.Secret] {
	return gentype.NewClient("secrets", c.groups[corev1.SchemeGroupVersion], metav1.ParameterCodec, namespace,
		newOf[corev1.Secret], gentype.PrefersProtobuf[*corev1.Secret]())
}

// ConfigMaps returns a client for the ConfigMaps of a namespace.
func (c *Client) ConfigMaps(namespace string) *gentype.Client[*corev1.ConfigMap] {
	return gentype.NewClient("configmaps", c.groups[corev1.SchemeGroupVersion], metav1.ParameterCodec, namespace,
		newOf[corev1.ConfigMap], gentype.PrefersProtobuf[*corev1.ConfigMap]())
}

// ServiceAccounts returns a client for the ServiceAccounts of a namespace.
func (c *Client) ServiceAccounts(namespace string) *gentype.ClientWithList[*corev1.ServiceAccount, *corev1.ServiceAccountList] {
	return gentype.NewClientWithList("serviceaccounts", c.groups[corev1.SchemeGroupVersion], metav1.ParameterCodec, namespace,
		newOf[corev1.ServiceAccount], newOf[corev1.ServiceAccountList], gentype.PrefersProtobuf[*corev1.ServiceAccount]())
}

// RequestToken returns a function that makes a token of a ServiceAccount of a namespace.
func (c *Client) RequestToken(namespace string) func(context.Context, string, *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return func(ctx context.Context, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
		made := &authenticationv1.TokenRequest{}
		return made, c.groups[corev1.SchemeGroupVersion].Post().Namespace(namespace).Resource("serviceaccounts").Name(account).SubResource("token").
			Body(request).Do(ctx).Into(made)
	}
}

// TokenReviews returns a client that authenticates tokens.
func (c *Client) TokenReviews() *gentype.Client[*authenticationv1.TokenReview] {
	return gentype.NewClient("tokenreviews", c.groups[authenticationv1.SchemeGroupVersion], metav1.ParameterCodec, "",
		newOf[authenticationv1.TokenReview], gentype.PrefersProtobuf[*authenticationv1.TokenReview]())
}

// SubjectAccessReviews returns a client that authorizes users.
func (c *Client) SubjectAccessReviews() *gentype.Client[*authorizationv1.SubjectAccessReview] {
	return gentype.NewClient("subjectaccessreviews", c.groups[authorizationv1.SchemeGroupVersion], metav1.ParameterCodec, "",
		newOf[authorizationv1.SubjectAccessReview], gentype.PrefersProtobuf[*authorizationv1.SubjectAccessReview]())
}

func newOf[T any]() *T { return new(T) }

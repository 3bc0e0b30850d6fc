// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
	smartnatscheme "github.com/smartnat/smartnat/generated/clientset/versioned/scheme"
)

type answer struct {
	status      int
	contentType string
	body        []byte
}

// server sends the same answer to all requests and records them.
type server struct {
	answer
	asked []request
}

type request struct{ Line, Accept, ContentType, UserAgent, Body string }

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	s.asked = append(s.asked, request{
		r.Method + " " + r.URL.String(), r.Header.Get("Accept"), r.Header.Get("Content-Type"), r.Header.Get("User-Agent"), string(body),
	})
	return &http.Response{
		StatusCode: s.status, Header: http.Header{"Content-Type": {s.contentType}}, Body: io.NopCloser(bytes.NewReader(s.body)), Request: r,
	}, nil
}

// in returns object as a response in a content type.
func in(t *testing.T, codecs serializer.CodecFactory, contentType string, object runtime.Object) answer {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), contentType)
	if !ok {
		t.Fatalf("no serializer for %s", contentType)
	}
	versions := []schema.GroupVersion{v1alpha1.SchemeGroupVersion, corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion,
		coordinationv1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion}
	body, err := runtime.Encode(codecs.EncoderForVersion(info.Serializer, schema.GroupVersions(versions)), object)
	if err != nil {
		t.Fatal(err)
	}
	status := http.StatusOK
	if refusal, ok := object.(*metav1.Status); ok {
		status = int(refusal.Code)
	}
	return answer{status, contentType, body}
}

func inJSON(t *testing.T, codecs serializer.CodecFactory, object runtime.Object) []answer {
	t.Helper()
	return []answer{in(t, codecs, runtime.ContentTypeJSON, object)}
}

func both(t *testing.T, codecs serializer.CodecFactory, object runtime.Object) []answer {
	t.Helper()
	return append(inJSON(t, codecs, object), in(t, codecs, runtime.ContentTypeProtobuf, object))
}

// change returns a watch with one event.
func change(t *testing.T, codecs serializer.CodecFactory, object runtime.Object) []answer {
	t.Helper()
	a := in(t, codecs, runtime.ContentTypeJSON, object)
	a.body = fmt.Appendf(nil, `{"type":"MODIFIED","object":%s}`, a.body)
	return []answer{a}
}

// ask sends one request.
type ask func(context.Context) (any, error)

// Methods that both clients have.
type (
	listerWatcher[L any] interface {
		List(context.Context, metav1.ListOptions) (L, error)
		Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
	}
	creator[T any] interface {
		Create(context.Context, T, metav1.CreateOptions) (T, error)
	}
	getter[T any] interface {
		Get(context.Context, string, metav1.GetOptions) (T, error)
	}
	patcher[T any] interface {
		Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (T, error)
	}
)

func list[L any](c listerWatcher[L]) ask {
	return func(ctx context.Context) (any, error) {
		return c.List(ctx, metav1.ListOptions{ResourceVersion: "7", LabelSelector: "a=b", Limit: 500})
	}
}

// look opens a watch and reads its first event.
func look[L any](c listerWatcher[L]) ask {
	return func(ctx context.Context) (any, error) {
		initial, seconds := true, int64(60)
		w, err := c.Watch(ctx, metav1.ListOptions{
			ResourceVersion: "7", AllowWatchBookmarks: true, SendInitialEvents: &initial, TimeoutSeconds: &seconds,
		})
		if err != nil {
			return nil, err
		}
		defer w.Stop()
		return <-w.ResultChan(), nil
	}
}

func create[T any](c creator[T], object T) ask {
	return func(ctx context.Context) (any, error) { return c.Create(ctx, object, metav1.CreateOptions{}) }
}

func get[T any](c getter[T]) ask {
	return func(ctx context.Context) (any, error) { return c.Get(ctx, "web", metav1.GetOptions{}) }
}

func patch[T any](c patcher[T], how types.PatchType, subresources ...string) ask {
	return func(ctx context.Context) (any, error) {
		force := true
		return c.Patch(ctx, "web", how, []byte(`{"a":1}`), metav1.PatchOptions{FieldManager: "smartnat", Force: &force}, subresources...)
	}
}

// TestClientsAskAsThoseOfClientGo proves that this package and client-go send the same requests and return the same
// results.
func TestClientsAskAsThoseOfClientGo(t *testing.T) {
	s := &server{}
	config := rest.AddUserAgent(&rest.Config{Host: "https://cluster", Transport: s, QPS: -1}, "smartnat-relay")
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	smartnat, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "web", ResourceVersion: "9"}
	services := &corev1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: "9"}, Items: []corev1.Service{{ObjectMeta: meta}}}
	slices := &discoveryv1.EndpointSliceList{Items: []discoveryv1.EndpointSlice{{ObjectMeta: meta, AddressType: "IPv4"}}}
	leases := &coordinationv1.LeaseList{Items: []coordinationv1.Lease{{ObjectMeta: meta}}}
	token := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "t"}}
	access := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "u"}}
	event := &corev1.Event{ObjectMeta: meta, Reason: "Programmed"}
	inCore, inSmartNat := scheme.Codecs, smartnatscheme.Codecs
	for _, test := range []struct {
		name         string
		theirs, ours ask
		answers      []answer
	}{
		{"list Services", list(core.CoreV1().Services("")), list(ours.Of(kinds.Service, "")), both(t, inCore, services)},
		{"watch Services", look(core.CoreV1().Services("")), look(ours.Of(kinds.Service, "")), change(t, inCore, &services.Items[0])},
		{"list EndpointSlices", list(core.DiscoveryV1().EndpointSlices("")), list(ours.Of(kinds.EndpointSlice, "")), both(t, inCore, slices)},
		{"watch EndpointSlices", look(core.DiscoveryV1().EndpointSlices("")), look(ours.Of(kinds.EndpointSlice, "")), change(t, inCore, &slices.Items[0])},
		{"list Leases", list(core.CoordinationV1().Leases("smartnat")), list(ours.Leases("smartnat")), both(t, inCore, leases)},
		{"watch Leases", look(core.CoordinationV1().Leases("smartnat")), look(ours.Leases("smartnat")), change(t, inCore, &leases.Items[0])},
		{"apply a Lease", patch(core.CoordinationV1().Leases("smartnat"), types.ApplyPatchType), patch(ours.Leases("smartnat"), types.ApplyPatchType),
			both(t, inCore, &leases.Items[0])},
		{"list Mappings", list(smartnat.SmartnatV1alpha1().Mappings("")), list(ours.Mappings("")),
			inJSON(t, inSmartNat, &v1alpha1.MappingList{Items: []v1alpha1.Mapping{{ObjectMeta: meta}}})},
		{"watch Mappings", look(smartnat.SmartnatV1alpha1().Mappings("")), look(ours.Mappings("")), change(t, inSmartNat, &v1alpha1.Mapping{ObjectMeta: meta})},
		{"list Mappings by kind", list(smartnat.SmartnatV1alpha1().Mappings("")), list(ours.Of(kinds.Mapping, "")),
			inJSON(t, inSmartNat, &v1alpha1.MappingList{Items: []v1alpha1.Mapping{{ObjectMeta: meta}}})},
		{"watch Mappings by kind", look(smartnat.SmartnatV1alpha1().Mappings("")), look(ours.Of(kinds.Mapping, "")),
			change(t, inSmartNat, &v1alpha1.Mapping{ObjectMeta: meta})},
		{"get a Mapping", get(smartnat.SmartnatV1alpha1().Mappings("shop")), get(ours.Mappings("shop")), inJSON(t, inSmartNat, &v1alpha1.Mapping{ObjectMeta: meta})},
		{"apply the status of a Mapping", patch(smartnat.SmartnatV1alpha1().Mappings("shop"), types.ApplyPatchType, "status"),
			patch(ours.Mappings("shop"), types.ApplyPatchType, "status"), inJSON(t, inSmartNat, &v1alpha1.Mapping{ObjectMeta: meta})},
		{"create an Event", create(core.CoreV1().Events("shop"), event), create(ours.Events("shop"), event), both(t, inCore, event)},
		{"patch an Event", patch(core.CoreV1().Events("shop"), types.StrategicMergePatchType), patch(ours.Events("shop"), types.StrategicMergePatchType),
			both(t, inCore, event)},
		{"review a token", create(core.AuthenticationV1().TokenReviews(), token), create(ours.TokenReviews(), token), both(t, inCore, token)},
		{"review the access of a user", create(core.AuthorizationV1().SubjectAccessReviews(), access), create(ours.SubjectAccessReviews(), access), both(t, inCore, access)},
	} {
		refusal := apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "web", errors.New("no")).ErrStatus
		for _, answer := range append(test.answers, both(t, inCore, &refusal)...) {
			t.Run(test.name+", "+answer.contentType, func(t *testing.T) {
				s.answer, s.asked = answer, nil
				want, wantErr := test.theirs(t.Context())
				asked := s.asked
				s.asked = nil
				got, gotErr := test.ours(t.Context())
				if diff := cmp.Diff(asked, s.asked); diff != "" || len(asked) != 1 {
					t.Errorf("requests (-client-go +ours)\n%s", diff)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("result (-client-go +ours)\n%s", diff)
				}
				if diff := cmp.Diff(wantErr, gotErr); diff != "" || (gotErr != nil) != (answer.status >= 400) {
					t.Errorf("error of %v (-client-go +ours)\n%s", gotErr, diff)
				}
			})
		}
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// kindsOf maps resources to the kinds that responses name.
var kindsOf = map[string]string{"mappings": "Mapping", "services": "Service", "endpointslices": "EndpointSlice"}

// shownObject is the part of a response, in any form, that identifies its objects.
type shownObject struct {
	Kind     string            `json:"kind"`
	Metadata metav1.ObjectMeta `json:"metadata"`
	Items    []shownObject     `json:"items"`
	Rows     []struct {
		Object shownObject `json:"object"`
	} `json:"rows"`
	Type   string       `json:"type"`
	Object *shownObject `json:"object"`
}

// objects returns the objects in a response.
func (s shownObject) objects() []shownObject {
	var all []shownObject
	switch {
	case s.Object != nil && s.Type != "BOOKMARK":
		all = s.Object.objects()
	case s.Items != nil:
		for _, item := range s.Items {
			all = append(all, item.objects()...)
		}
	case s.Rows != nil:
		for _, row := range s.Rows {
			all = append(all, row.Object.objects()...)
		}
	case s.Metadata.Name != "":
		all = []shownObject{s}
	}
	return all
}

// verb returns the verb that a response belongs to.
func (s shownObject) verb() string {
	switch {
	case s.Type != "":
		return "watch"
	case strings.HasSuffix(s.Kind, "List"), s.Kind == "Table":
		return "list or a table of get"
	}
	return "get"
}

// beyond returns the violation if a response exceeds what was authorized, and the number of objects in it.
func beyond(a authorizer.Attributes, body []byte) (shown int, wrong error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	for {
		var answer shownObject
		if err := decoder.Decode(&answer); errors.Is(err, io.EOF) {
			return shown, wrong
		} else if err != nil {
			return shown, err
		}
		switch verb := answer.verb(); {
		case a == nil || !a.IsResourceRequest():
			wrong = fmt.Errorf("a %s was authorized as a path", answer.Kind)
		case verb != a.GetVerb() && (!strings.HasPrefix(verb, "list") || a.GetVerb() != "list" && (answer.Kind != "Table" || a.GetVerb() != "get")):
			wrong = fmt.Errorf("%s was authorized, the response is to a %s", a.GetVerb(), verb)
		}
		for _, o := range answer.objects() {
			shown++
			switch {
			case a.GetNamespace() != "" && o.Metadata.Namespace != a.GetNamespace():
				wrong = fmt.Errorf("namespace %q was authorized, %s/%s is served", a.GetNamespace(), o.Metadata.Namespace, o.Metadata.Name)
			case a.GetName() != "" && o.Metadata.Name != a.GetName():
				wrong = fmt.Errorf("name %q was authorized, %s/%s is served", a.GetName(), o.Metadata.Namespace, o.Metadata.Name)
			case o.Kind != kindsOf[a.GetResource()] && o.Kind != "PartialObjectMetadata" || a.GetSubresource() != "":
				wrong = fmt.Errorf("%s/%s was authorized, a %s is served", a.GetResource(), a.GetSubresource(), o.Kind)
			case o.Metadata.UID != "" && string(o.Metadata.UID) != a.GetResource():
				wrong = fmt.Errorf("%s was authorized, %s is served", a.GetResource(), o.Metadata.UID)
			}
		}
	}
}

// withDeadline is a recorder that lets a watch set a write deadline, as a connection does.
type withDeadline struct{ *httptest.ResponseRecorder }

func (withDeadline) SetWriteDeadline(time.Time) error { return nil }

// pick returns a random element.
func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

// spelled percent-encodes some bytes of s.
func spelled(r *rand.Rand, s string) string {
	if r.IntN(8) > 0 {
		return s
	}
	i := r.IntN(len(s) + 1)
	if i == len(s) {
		return s
	}
	return fmt.Sprintf("%s%%%02x%s", s[:i], s[i], s[i+1:])
}

// someRequest returns a random request made of meaningful parts, so that most combinations occur.
func someRequest(r *rand.Rand) string {
	prefix := pick(r, "/api/v1", "/api/v1", "/api/v1", "/api/v1", "/apis/discovery.k8s.io/v1", "/apis/smartnat.aureacentral.com/v1alpha1", "//api/v1", "/apis//v1", "/api/v1/")
	verb := pick(r, "", "", "", "", "", "", "/watch", "/watch", "/watch", "/proxy", "/Watch", "/watch/watch", "/watch/")
	namespace := pick(r, "", "/namespaces/shop", "/namespaces/bank", "/namespaces/none", "/namespaces/", "/namespaces/shop/namespaces/bank", "/namespaces/status")
	resource := pick(r, "/services", "/services", "/services", "/mappings", "/mappings", "/endpointslices", "/SERVICES", "/secrets", "/services/")
	name := pick(r, "", "", "", "", "", "/web", "/mail", "/none", "/web/status", "/web/", "/..", "/web/../mail")
	path := spelled(r, prefix) + spelled(r, verb) + spelled(r, namespace) + spelled(r, resource) + spelled(r, name)
	var query []string
	for range r.IntN(3) {
		query = append(query, pick(r, "watch=", "Watch=")+pick(r, "1", "true", "0", "false", "x", ""))
	}
	for range r.IntN(3) {
		selector := pick(r, "metadata.name=web", "metadata.name==mail", "metadata.name!=web", "metadata.name!=none", "metadata.namespace=bank",
			"metadata.name=web,metadata.namespace=bank", "metadata.name=web,metadata.name=mail", "metadata.name=mail,metadata.name!=mail",
			"metadata.name=", "metadata.name!=", "metadata.name=a/b", "metadata.name", "a=b", "", ",", `metadata.name=w\eb`)
		query = append(query, pick(r, "fieldSelector=", "fieldSelector=", "fieldselector=", "%66ieldSelector=")+url.QueryEscape(selector))
	}
	if r.IntN(3) == 0 {
		query = append(query, "labelSelector="+url.QueryEscape(pick(r, "tier=web", "tier!=web", "tier in (web,mail)", "!tier", "(", "")))
	}
	query = append(query, pick(r, "", "", "", "", "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan", "resourceVersion=0",
		"limit=1", "limit=x", "timeoutSeconds=1", "timeoutSeconds=x", "includeObject=Object", "includeObject=None", "continue=x", "a=%zz", "a;b"))
	return path + "?" + strings.Join(query, pick(r, "&", "&", "&", "&", "&", "&", ";"))
}

// TestWhatIsServedWasAuthorized proves for random requests that every object in a response is within what was authorized.
func TestWhatIsServedWasAuthorized(t *testing.T) {
	config, handler := servedFixture(t)
	var asked authorizer.Attributes
	config.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		asked = a
		return authorizer.DecisionAllow, "", nil
	})
	served := handler()
	r := rand.New(rand.NewPCG(1, 2))
	shown, narrowed, watched := 0, 0, 0
	for range 30_000 {
		target := someRequest(r)
		parsed, err := url.ParseRequestURI(target)
		if err != nil {
			continue
		}
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.URL, req.RequestURI = parsed, target
		req.Header.Set("Authorization", "Bearer "+gatewayToken)
		req.Header.Set("Accept", pick(r, "application/json", "application/json;profile=gateway", table, metadata, metadataList))
		asked = nil
		w := httptest.NewRecorder()
		served.ServeHTTP(withDeadline{w}, req)
		if w.Code != http.StatusOK {
			continue
		}
		n, wrong := beyond(asked, w.Body.Bytes())
		if wrong != nil {
			t.Errorf("GET %s (%s): %v", target, req.Header.Get("Accept"), wrong)
		}
		shown += n
		if n > 0 && asked.GetName() != "" {
			narrowed++
		}
		if n > 0 && asked.GetVerb() == "watch" {
			watched++
		}
	}
	if shown < 1000 || narrowed < 100 || watched < 50 {
		t.Errorf("%d objects, %d by name, %d by watch: too few to prove anything", shown, narrowed, watched)
	}
}

const (
	table        = "application/json;as=Table;v=v1;g=meta.k8s.io"
	metadata     = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	metadataList = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
)

// servedFixture is a relay with objects of the same names in two namespaces. Its watches end after the initial events.
func servedFixture(t *testing.T) (*Config, func() http.Handler) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	config := &Config{
		Authenticator: authenticator.RequestFunc(fakeAuthentication), Cache: watchcache.New(watchcache.NewEpoch(), 4), Log: log,
	}
	var mappings, services, slices []any
	for _, namespace := range []string{"shop", "bank"} {
		for _, name := range []string{"web", "mail"} {
			m, s, e := newMapping(namespace, name, name), newService(namespace, name), newSlice(namespace, name, name)
			m.UID, s.UID, e.UID = "mappings", "services", "endpointslices"
			m.Labels, s.Labels = map[string]string{"tier": name}, map[string]string{"tier": name}
			e.Labels["tier"] = name
			mappings, services, slices = append(mappings, m), append(services, s), append(slices, e)
		}
	}
	if err := errors.Join(config.Cache.Mappings().Store().Replace(mappings, ""), config.Cache.Services().Store().Replace(services, ""),
		config.Cache.EndpointSlices().Store().Replace(slices, ""), config.Cache.PortGrants().Store().Replace(nil, ""),
		config.Cache.Namespaces().Store().Replace(nil, "")); err != nil {
		t.Fatal(err)
	}
	return config, func() http.Handler {
		stopping := make(chan struct{})
		close(stopping)
		api, err := registry.New(config.Cache, stopping)
		if err != nil {
			t.Fatal(err)
		}
		return newHandler(config, api, nil)
	}
}

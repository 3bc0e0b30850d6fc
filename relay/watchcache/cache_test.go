// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

func mapping(name, label string) *v1alpha1.Mapping {
	return &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"l": label}}}
}

// naming returns a valid Mapping that names a Service.
func naming(name, service string) *v1alpha1.Mapping {
	m := mapping(name, "")
	m.Spec = v1alpha1.MappingSpec{
		Addresses: []string{"192.0.2.1"}, ServiceName: service, Ports: []v1alpha1.MappingPort{{Port: 80}},
	}
	return m
}

// history is the history of the Caches in these tests.
const history = 4

func synced(t *testing.T) *Cache {
	t.Helper()
	c := New(NewEpoch(), history)
	for _, r := range c.Resources() {
		if c.HasSynced() {
			t.Fatal("HasSynced() = true before all kinds are listed")
		}
		if err := r.Store().Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	if !c.HasSynced() {
		t.Fatal("HasSynced() = false after all kinds are listed")
	}
	return c
}

func update(t *testing.T, c *Cache, m *v1alpha1.Mapping) {
	t.Helper()
	if err := c.Mappings().Store().Update(m); err != nil {
		t.Fatal(err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	c := synced(t)
	_, start := c.Mappings().List()
	for i := range 100 {
		update(t, c, mapping("web", fmt.Sprint(i)))
		if n := len(c.Mappings().events); n > 2*history {
			t.Fatalf("%d events kept, want at most %d", n, 2*history)
		}
		_, at := c.Mappings().List()
		if events, _, _, err := c.Mappings().Since(at - Version(min(i+1, history))); err != nil || len(events) != min(i+1, history) {
			t.Fatalf("%d events, %v; want the latest %d", len(events), err, history)
		}
	}
	if _, _, _, err := c.Mappings().Since(start); !errors.Is(err, ErrExpired) {
		t.Errorf("Since(start) = %v, want ErrExpired", err)
	}
	// Changes of one kind do not use up the history of another.
	if events, _, _, err := c.Services().Since(start); err != nil || len(events) != 0 {
		t.Errorf("Services: %d events, %v", len(events), err)
	}
}

func TestListsAreSharedUntilSomethingChanges(t *testing.T) {
	c := synced(t)
	update(t, c, mapping("web", "a"))
	one, at := c.Mappings().List()
	again, same := c.Mappings().List()
	if &one[0] != &again[0] || at != same {
		t.Errorf("list was rebuilt at %v and %v although nothing changed", at, same)
	}
	update(t, c, mapping("mail", "b"))
	if now, then := c.Mappings().List(); len(now) != 2 || then <= at || len(one) != 1 {
		t.Errorf("new list: %d objects at %v; old list: %d at %v", len(now), then, len(one), at)
	}
}

func TestVersionsOfOthersAreExpired(t *testing.T) {
	c := synced(t)
	_, at := c.Mappings().List()
	other := synced(t)
	_, foreign := other.Mappings().List()
	for name, version := range map[string]Version{
		"of another process": foreign, "of the future": at + 1, "zero": 0, "of a cluster": 4711, "the largest": ^Version(0),
	} {
		if _, _, _, err := c.Mappings().Since(version); !errors.Is(err, ErrExpired) {
			t.Errorf("%s: Since() = %v, want ErrExpired", name, err)
		}
		if err := c.Knows(version); !errors.Is(err, ErrExpired) {
			t.Errorf("%s: Knows() = %v, want ErrExpired", name, err)
		}
	}
	if _, _, _, err := c.Mappings().Since(at); err != nil {
		t.Errorf("own version: Since() = %v", err)
	}
	if err := c.Knows(at); err != nil {
		t.Errorf("own version: Knows() = %v", err)
	}
}

func TestParseVersion(t *testing.T) {
	for _, test := range []struct {
		text    string
		want    Version
		expired bool
		ok      bool
	}{
		{text: "17", want: 17, ok: true},
		{text: "99999999999999999999999999", expired: true},
		{text: "abc"}, {text: "-1"}, {text: ""},
	} {
		got, err := ParseVersion(test.text)
		if got != test.want || errors.Is(err, ErrExpired) != test.expired || (err == nil) != test.ok {
			t.Errorf("ParseVersion(%q) = %d, %v", test.text, got, err)
		}
	}
}

func TestVersionsAreComparedAsClientsDo(t *testing.T) {
	for range 1000 {
		v := NewEpoch()
		if got, err := resourceversion.CompareResourceVersion(v.String(), (v + 1).String()); got != -1 || err != nil {
			t.Fatalf("CompareResourceVersion(%s, %s) = %d, %v; want -1", v, v+1, got, err)
		}
		if int64(v) < 0 || v&(1<<counterBits-1) != 0 {
			t.Fatalf("epoch %d is negative as an int64, or does not begin to count at 0", v)
		}
	}
}

func TestWatchersWakeForWhatTheySee(t *testing.T) {
	c := synced(t)
	_, at := c.Services().List()
	_, _, more, err := c.Services().Since(at)
	if err != nil {
		t.Fatal(err)
	}
	awake := func() bool {
		select {
		case <-more:
			return true
		default:
			return false
		}
	}
	hidden := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	if err := c.Services().Store().Add(hidden); err != nil {
		t.Fatal(err)
	}
	if awake() {
		t.Error("an unnamed Service woke watchers")
	}
	update(t, c, naming("m", "web"))
	if !awake() {
		t.Error("a newly named Service woke no watcher")
	}
}

func TestEntriesAreEncodedOnceAndCarryTheVersion(t *testing.T) {
	c := synced(t)
	update(t, c, naming("m", "web"))
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	if err := c.Services().Store().Add(service); err != nil {
		t.Fatal(err)
	}
	entry := c.Services().Get("shop", "web")
	for name, encoding := range map[string]struct {
		encode func() ([]byte, error)
		decode func([]byte, *corev1.Service) error
	}{
		"JSON":     {func() ([]byte, error) { return entry.JSON(Whole) }, func(b []byte, s *corev1.Service) error { return json.Unmarshal(b, s) }},
		"protobuf": {func() ([]byte, error) { return entry.Protobuf(Whole) }, func(b []byte, s *corev1.Service) error { return s.Unmarshal(b) }},
	} {
		data, err := encoding.encode()
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.Service
		if err := encoding.decode(data, &got); err != nil {
			t.Fatal(err)
		}
		if got.Name != "web" || got.ResourceVersion != entry.Version.String() {
			t.Errorf("%s: %s of version %s, want web of version %s", name, got.Name, got.ResourceVersion, entry.Version)
		}
		if again, err := encoding.encode(); err != nil || &again[0] != &data[0] {
			t.Errorf("%s: encoded again, %v", name, err)
		}
	}
	if data, err := c.Mappings().Get("shop", "m").Protobuf(Whole); err == nil {
		t.Errorf("a Mapping as protobuf: %q", data)
	}
}

func TestStoreRefusesOtherTypes(t *testing.T) {
	c := synced(t)
	for name, obj := range map[string]any{"another kind": &corev1.Service{}, "nothing": nil} {
		if err := c.Mappings().Store().Update(obj); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

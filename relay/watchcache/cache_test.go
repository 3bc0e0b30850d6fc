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

// history is how many changes the Caches of these tests keep.
const history = 4

func synced(t *testing.T) *Cache {
	t.Helper()
	c := New(NewEpoch(), history)
	for _, r := range kinds(c) {
		if c.HasSynced() {
			t.Fatal("HasSynced() before all kinds are there")
		}
		if err := r.Store().Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	if !c.HasSynced() {
		t.Fatal("not HasSynced() with all kinds there")
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
	// The history of one kind is not used up by the changes of another.
	if events, _, _, err := c.Services().Since(start); err != nil || len(events) != 0 {
		t.Errorf("of Services: %d events, %v", len(events), err)
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
		t.Errorf("its own: Since() = %v", err)
	}
	if err := c.Knows(at); err != nil {
		t.Errorf("its own: Knows() = %v", err)
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
		t.Error("a Service that nothing names woke watchers")
	}
	update(t, c, &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "m"}, Spec: v1alpha1.MappingSpec{
		Addresses: []string{"192.0.2.1"}, ServiceName: "web", Ports: []v1alpha1.MappingPort{{Port: 80}},
	}})
	if !awake() {
		t.Error("a Service that is named now woke nobody")
	}
}

func TestEntriesAreEncodedOnceAndCarryTheVersion(t *testing.T) {
	c := synced(t)
	update(t, c, mapping("web", "a"))
	entry := c.Mappings().Get("shop", "web")
	text, err := entry.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got v1alpha1.Mapping
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.ResourceVersion != entry.Version.String() || got.Kind != "Mapping" {
		t.Errorf("%s of version %s, want a Mapping of version %s", got.Kind, got.ResourceVersion, entry.Version)
	}
	again, err := entry.JSON()
	if err != nil || &again[0] != &text[0] {
		t.Errorf("encoded again, %v", err)
	}
}

func TestStoreRefusesOtherTypes(t *testing.T) {
	c := synced(t)
	for name, obj := range map[string]any{"another kind": &corev1.Service{}, "nothing": nil} {
		if err := c.Mappings().Store().Update(obj); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package skew

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus/hooks/test"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/source"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// TestCurrentIsTheVersionOfTheChanges expects that a new minor version gets files of its own, so that those of a released one stay.
func TestCurrentIsTheVersionOfTheChanges(t *testing.T) {
	changes, err := os.ReadFile("../../.github/CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^## (\d+\.\d+)\.\d+`).FindSubmatch(changes)
	if found == nil || string(found[1]) != Current {
		t.Errorf("Current is %s, the first version in CHANGELOG.md is %q", Current, found)
	}
	if !slices.Contains(Versions(t), Current) {
		t.Errorf("testdata has no folder %s: make update", Current)
	}
}

// read returns the objects that the gateway of this version reads from a relay that answers so, or 404 without a media type.
func read(t *testing.T, answer func(name string) (mediaType string, body []byte)) string {
	t.Helper()
	relay := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mediaType, body := answer(NameOf(r.URL))
		if mediaType == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		_, _ = w.Write(body)
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	defer relay.Close()
	defer relay.CloseClientConnections()
	folder := t.TempDir()
	put := func(name string, content []byte) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	log, _ := test.NewNullLogger()
	changed := make(chan struct{}, 100)
	gateway, err := source.New(config.Source{Relay: &config.Relay{
		Servers: []string{relay.URL}, TokenFile: put("token", []byte("token")),
		CAFile: put("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: relay.Certificate().Raw})),
	}}, func() { changed <- struct{}{} }, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- gateway.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	for len(gateway.Snapshot().Mappings) == 0 || !gateway.HasSynced() {
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("not synced: %+v", gateway.Contact())
		}
	}
	text, err := yaml.Marshal(gateway.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestAnswersOfEachVersion reads the answers of relays of this version and all others, each as a stream, and as a list with a watch.
func TestAnswersOfEachVersion(t *testing.T) {
	for _, version := range Versions(t) {
		for name, without := range map[string]string{"stream": "-list", "list and watch": "-stream"} {
			t.Run(version+" "+name, func(t *testing.T) {
				known := map[string]bool{}
				for _, r := range Requests(t, version, "gateway.yaml") {
					known[r.Name] = !strings.HasSuffix(r.Name, without)
				}
				got := read(t, func(name string) (string, []byte) {
					if !known[name] {
						return "", nil
					}
					return Answer(t, version, name)
				})
				if version == Current && *update {
					Golden(t, "snapshot.yaml", []byte(got), true)
				}
				if diff := cmp.Diff(string(Read(t, version, "snapshot.yaml")), got); diff != "" {
					t.Errorf("-as that version read it +as this one does\n%s", diff)
				}
			})
		}
	}
}

// TestFieldsOfALaterVersion reads lists in which each object, at each level, has a field that this version does not know.
func TestFieldsOfALaterVersion(t *testing.T) {
	got := read(t, func(name string) (string, []byte) {
		resource, isList := strings.CutSuffix(name, "-list")
		if !isList || !slices.ContainsFunc(kinds.All(), func(k *kinds.Kind) bool { return k.Resource == resource }) {
			return "", nil
		}
		mediaType, text := Answer(t, Current, name)
		if mediaType == runtime.ContentTypeProtobuf {
			list, _, err := scheme.Codecs.UniversalDeserializer().Decode(text, nil, nil)
			if err != nil {
				t.Error(err)
			}
			if text, err = json.Marshal(list); err != nil {
				t.Error(err)
			}
		}
		var plain map[string]any
		if err := json.Unmarshal(text, &plain); err != nil {
			t.Error(err)
		}
		if added := extend(plain); added < 5 {
			t.Errorf("%s: %d fields of a later version, want at least 5", name, added)
		}
		text, err := json.Marshal(plain)
		if err != nil {
			t.Error(err)
		}
		return runtime.ContentTypeJSON, text
	})
	if diff := cmp.Diff(string(Read(t, Current, "snapshot.yaml")), got); diff != "" {
		t.Errorf("-without +with later fields\n%s", diff)
	}
}

// extend adds a field to each object in a value, except for maps of texts such as labels, and returns how many.
func extend(value any) (added int) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			if key != "labels" && key != "annotations" && key != "selector" && key != "matchLabels" {
				added += extend(inner)
			}
		}
		v["later"] = map[string]any{"field": []any{1, "two"}}
		added++
	case []any:
		for _, inner := range v {
			added += extend(inner)
		}
	}
	return added
}

func TestNameOf(t *testing.T) {
	for text, want := range map[string]string{
		"/api/v1/services?limit=500":                         "services-list",
		"/api/v1/services?watch=true":                        "services-watch",
		"/api/v1/services?sendInitialEvents=true&watch=true": "services-stream",
	} {
		asked, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := NameOf(asked); got != want {
			t.Errorf("%s is a %s, want %s", text, got, want)
		}
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package skew holds what gateways and relays of each minor version say to each other, in testdata/VERSION: the requests
// of a gateway (gateway.yaml, reporter.yaml), the answer of a relay to each (NAME.json, NAME.pb), and the objects that the
// gateway read from them (snapshot.yaml). Tests of both halves compare the current version with its files, and expect that
// it understands those of all others. Only the files of the current version may change.
package skew

import (
	"bytes"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// Current is the minor version that this tree becomes.
const Current = "0.1"

// timeout matches both timeouts of a watch: client-go's own, and the server's.
var timeout = regexp.MustCompile(`timeout=[^&]*&timeoutSeconds=\d+`)

// Request is a request of a gateway. It is a list, a stream (a list as a watch), a watch or a report, and its name says so.
type Request struct {
	Name        string `json:"name"`
	Method      string `json:"method"`
	URL         string `json:"url"`
	Accept      string `json:"accept"`
	ContentType string `json:"contentType,omitempty"`
	Body        string `json:"body,omitempty"`
}

// WithoutChance replaces the timeouts that client-go draws by lot. A watch of a second ends by itself.
func WithoutChance(url string) string {
	return timeout.ReplaceAllString(url, "timeout=1s&timeoutSeconds=1")
}

// NameOf names a list, a stream or a watch by what it asks for.
func NameOf(asked *url.URL) string {
	kind := "list"
	switch query := asked.Query(); {
	case query.Get("sendInitialEvents") == "true":
		kind = "stream"
	case query.Get("watch") != "":
		kind = "watch"
	}
	return path.Base(asked.Path) + "-" + kind
}

// Versions returns all versions with files.
func Versions(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root(t), "*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no versions: %v", err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

// Requests returns the requests of a gateway, from a file of a version.
func Requests(t *testing.T, version, file string) []Request {
	t.Helper()
	var all []Request
	if err := yaml.UnmarshalStrict(Read(t, version, file), &all); err != nil || len(all) == 0 {
		t.Fatalf("%s/%s: %d requests, %v", version, file, len(all), err)
	}
	return all
}

// Read returns a file of a version.
func Read(t *testing.T, version, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root(t), version, file))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Answer returns the answer to a request of a version, and its media type.
func Answer(t *testing.T, version, name string) (mediaType string, body []byte) {
	t.Helper()
	for mediaType, suffix := range suffixes() {
		content, err := os.ReadFile(filepath.Join(root(t), version, name+suffix))
		if err == nil {
			return mediaType, content
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s: no answer to %s", version, name)
	return "", nil
}

// SuffixOf returns the suffix of the file of an answer.
func SuffixOf(t *testing.T, mediaType string) string {
	t.Helper()
	mediaType, _, _ = strings.Cut(mediaType, ";")
	suffix := suffixes()[mediaType]
	if suffix == "" {
		t.Fatalf("a gateway does not understand %q", mediaType)
	}
	return suffix
}

func suffixes() map[string]string {
	return map[string]string{runtime.ContentTypeJSON: ".json", runtime.ContentTypeProtobuf: ".pb"}
}

// Golden compares a file of the current version with what is said now, or writes it.
func Golden(t *testing.T, file string, got []byte, update bool) {
	t.Helper()
	if update {
		path := filepath.Join(root(t), Current, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want := Read(t, Current, file)
	if filepath.Ext(file) == ".pb" {
		if !bytes.Equal(want, got) {
			t.Errorf("%s: -want +got\n-%q\n+%q", file, want, got)
		}
		return
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: -want +got\n%s", file, diff)
	}
}

// root returns the folder of the versions. Tests run in the folder of their package.
func root(t *testing.T) string {
	t.Helper()
	for dir := "."; ; dir = filepath.Join("..", dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "scripts", "skew", "testdata")
		}
		if len(dir) > 100 {
			t.Fatal("no go.mod above this folder")
		}
	}
}

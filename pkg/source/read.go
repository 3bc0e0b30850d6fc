// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/pkg/objects"
)

// stdinPath stands for standard input, as in kubectl.
const stdinPath = "-"

// ReadFiles reads Mappings, Services and EndpointSlices from YAML and JSON files, from folders of them, and from stdin if
// a path is "-". The namespace defaults to "default". The error has one line per problem, which names the file and the
// document.
func ReadFiles(paths []string, stdin io.Reader) (objects.Snapshot, error) {
	r := newReader()
	for _, path := range paths {
		if path == stdinPath {
			r.readAll("stdin", stdin)
			continue
		}
		files, err := filesOf(path)
		if err != nil {
			r.errs = append(r.errs, err)
		}
		for _, file := range files {
			r.readFile(file)
		}
	}
	return r.objects.Snapshot(), errors.Join(r.errs...)
}

// filesOf returns the path itself, or the manifests directly in a folder, like kubectl without --recursive.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && isManifest(e.Name()) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files, nil
}

func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// reader collects objects and errors from several files.
type reader struct {
	decoder runtime.Decoder
	objects objects.Store
	// places maps kind, namespace and name to the place of an object.
	places map[string]string
	errs   []error
}

func newReader() *reader {
	// Only the kinds in use: any other kind is a mistake to report.
	codecs := serializer.NewCodecFactory(newScheme(), serializer.EnableStrict)
	return &reader{decoder: codecs.UniversalDeserializer(), places: map[string]string{}}
}

func (r *reader) readFile(path string) {
	file, err := os.Open(path)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	defer file.Close()
	r.readAll(path, file)
}

func (r *reader) readAll(name string, from io.Reader) {
	documents := yaml.NewYAMLReader(bufio.NewReader(from))
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("%s: %w", name, err))
			return
		}
		if !isEmpty(document) {
			r.decode(fmt.Sprintf("%s: document %d", name, n), document)
		}
	}
}

// isEmpty reports whether a document holds only comments.
func isEmpty(document []byte) bool {
	for line := range bytes.Lines(document) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func (r *reader) decode(place string, document []byte) {
	object, _, err := r.decoder.Decode(document, nil, nil)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %w", place, explain(err)))
		return
	}
	if list, ok := object.(*corev1.List); ok {
		for i := range list.Items {
			r.decode(fmt.Sprintf("%s: item %d", place, i+1), list.Items[i].Raw)
		}
		return
	}
	add := func(object runtime.Object) error {
		if kind := kinds.Of(object); kind != nil {
			r.add(place, kind, object.(kinds.Object))
		}
		return nil
	}
	if !meta.IsListType(object) {
		_ = add(object) // never fails
	} else if err := meta.EachListItem(object, add); err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %w", place, err))
	}
}

// explain returns a decoding error as one line.
func explain(err error) error {
	text := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "strict decoding error: ")), " ")
	switch {
	case runtime.IsMissingKind(err):
		text = "kind is missing"
	case runtime.IsMissingVersion(err):
		text = "apiVersion is missing"
	case !runtime.IsNotRegisteredError(err):
		return errors.New(text)
	}
	var want []string
	for _, kind := range kinds.All() {
		want = append(want, fmt.Sprintf("%s (%s)", kind.Kind, kind.GroupVersion()))
	}
	return fmt.Errorf("%s; must be %s or a List of them", text, strings.Join(want, ", "))
}

func (r *reader) add(place string, kind *kinds.Kind, object kinds.Object) {
	if object.GetName() == "" {
		r.errs = append(r.errs, fmt.Errorf("%s: metadata.name: the %s must have a name", place, kind.Kind))
		return
	}
	if !kind.ClusterScoped {
		object.SetNamespace(cmp.Or(object.GetNamespace(), metav1.NamespaceDefault))
	}
	kept := strip(kind, object)
	if err := objects.Validate(kept); err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %s: %w", place, objects.ID(object), err))
		return
	}
	id := fmt.Sprintf("%s %s/%s", kind.Kind, object.GetNamespace(), object.GetName())
	if first, twice := r.places[id]; twice {
		r.errs = append(r.errs, fmt.Errorf("%s: %s is already in %s", place, id, first))
		return
	}
	r.places[id] = place
	r.objects.Set(kept)
}

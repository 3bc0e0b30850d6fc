// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/config"
)

const mappingYAML = `
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: echo}
spec: {addresses: [198.51.100.10], serviceName: echo, ports: [{port: 80}]}
`

const serviceYAML = `
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: web}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: http}]}
status: {loadBalancer: {}}
`

func TestReadFiles(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml":         "# nothing but a comment\n---\n" + mappingYAML + "---\n---\n" + serviceYAML,
		"b.json":         echoSlice,
		"c.yml":          "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(strings.ReplaceAll(mappingYAML, "echo", "listed")), "\n", "\n  ") + "\n",
		"notes.txt":      "not read",
		".hidden.yaml":   "not read",
		"sub/inner.yaml": "not read",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stdin := strings.NewReader("apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: from-stdin}\n  spec: {ports: [{port: 1}]}\n")
	got, err := ReadFiles([]string{folder, "-"}, stdin)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("Mapping echo, Mapping listed, Service from-stdin, Service echo, EndpointSlice echo-1", names(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	namespaces := []string{got.Mappings[0].Namespace, got.Services[0].Namespace, got.Services[1].Namespace}
	if diff := cmp.Diff([]string{"default", "default", "web"}, namespaces); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
}

func TestReadFilesNamesWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"unknown field", mappingYAML + "---\n" + strings.Replace(mappingYAML, "serviceName", "service", 1),
			[]string{`stdin: document 2: unknown field "spec.service"`}},
		{"field twice", mappingYAML + "kind: Mapping\n", []string{`stdin: document 1: yaml: unmarshal errors: line 6: key "kind" already set in map`}},
		{"unknown kind", serviceYAML + "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
			[]string{`stdin: document 2: no kind "Deployment" is registered for version "apps/v1"`}},
		{"kind in a list", "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: p}}]\n",
			[]string{`stdin: document 1: item 1: no kind "Pod" is registered for version "v1"`}},
		{"no kind", "metadata: {name: x}\n", []string{"stdin: document 1: kind is missing; must be Mapping"}},
		{"no name", strings.Replace(mappingYAML, "name: echo", "labels: {}", 1), []string{"stdin: document 1: metadata.name: the Mapping must have a name"}},
		{"a name of several lines", strings.Replace(mappingYAML, "name: echo", `name: "x\nCOMMIT\x1b"`, 1),
			[]string{`stdin: document 1: Mapping "default/x\nCOMMIT\x1b": metadata.name: "x\nCOMMIT\x1b": a lowercase RFC 1123 subdomain`}},
		{"twice", mappingYAML + "---\n" + mappingYAML, []string{"stdin: document 2: Mapping default/echo is already in stdin: document 1"}},
		{"wrong type", strings.Replace(mappingYAML, "port: 80", "port: http", 1), []string{"stdin: document 1: "}},
		{"several", "kind: X\n---\nkind: Z\n", []string{"stdin: document 1: apiVersion is missing", "stdin: document 2: apiVersion is missing"}},
		{"not YAML", "{", []string{"stdin: document 1: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ReadFiles([]string{"-"}, strings.NewReader(test.text))
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("%d lines, want %d:\n%v", len(lines), len(test.want), err)
			}
			for i, line := range lines {
				if !strings.HasPrefix(line, test.want[i]) {
					t.Errorf("line %q does not begin with %q", line, test.want[i])
				}
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	if _, err := ReadFiles([]string{missing}, nil); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v does not name %s", err, missing)
	}
}

// TestFilesAreReadAgain changes a file in all usual ways.
func TestFilesAreReadAgain(t *testing.T) {
	for _, whole := range []bool{true, false} {
		folder := t.TempDir()
		file := filepath.Join(folder, "objects.yaml")
		path := file
		if whole {
			path = folder
		}
		write := func(text string) {
			t.Helper()
			// As editors do: rename another file over the old one.
			if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
		}
		write(mappingYAML)
		var changes atomic.Int64
		log, hook := testLog()
		source, err := New(config.Source{Files: &config.Files{Paths: []string{path}}}, func() { changes.Add(1) }, log)
		if err != nil {
			t.Fatal(err)
		}
		if source.HasSynced() {
			t.Error("synced before it ran")
		}
		start(t, source)
		eventually(t, "read", func() bool { return source.HasSynced() && changes.Load() == 1 })

		write(mappingYAML + "---\n" + serviceYAML)
		eventually(t, "the reload", func() bool { return names(source.Snapshot()) == "Mapping echo, Service echo" && changes.Load() == 2 })

		write("kind: nonsense\n---\nkind: nonsense\n")
		eventually(t, "the log line about the bad file", func() bool { return messages(hook, "failed to read files") == 1 })
		if got := names(source.Snapshot()); got != "Mapping echo, Service echo" {
			t.Errorf("snapshot holds %s after a bad file", got)
		}
		if c := source.Contact(); !c.Lost || c.Since.IsZero() {
			t.Errorf("a bad file: %+v", c)
		}
		if line, _ := hook.LastEntry().Data["error"].(string); strings.Contains(line, "\n") || !strings.Contains(line, file) {
			t.Errorf("not one line that names %s: %q", file, line)
		}

		write(serviceYAML)
		eventually(t, "the valid file", func() bool { return names(source.Snapshot()) == "Service echo" && changes.Load() == 3 })
		if source.Contact().Lost {
			t.Error("still lost with valid files")
		}
	}
}

func TestFilesWithoutFolder(t *testing.T) {
	log, _ := testLog()
	missing := filepath.Join(t.TempDir(), "gone", "objects.yaml")
	err := newFiles([]string{missing}, func() {}, log).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), filepath.Dir(missing)) {
		t.Errorf("error %v does not name the folder", err)
	}
}

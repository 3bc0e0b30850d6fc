// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package scripts

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestReleaseRefuses runs release.sh where it must not build anything.
func TestReleaseRefuses(t *testing.T) {
	const good = "# Changes\n\n## 1.2.3 - 2026-11-30\n\n- a change\n\n## 1.2.2\n"
	for name, test := range map[string]struct{ changes, shell, want string }{
		"no version":      {"# Changes\n", "", "has no heading"},
		"no number":       {"## next\n", "", "has no heading"},
		"another tag":     {good, "git tag v1.2.2", "tagged v1.2.2, but .github/CHANGELOG.md begins with 1.2.3"},
		"two tags":        {good, "git tag v1.2.3; git tag v1.2.4", "begins with 1.2.3"},
		"a changed tree":  {good, "echo >>.github/CHANGELOG.md", "not committed"},
		"a new file":      {good, "touch new", "not committed"},
		"no buildah":      {good, "git tag v1.2.3", "buildah is not installed"},
		"files of others": {good, "mkdir ../dist; touch ../dist/file; ln -s \"$(type -P true)\" ../tools/buildah", "holds files of something else"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			tree, tools := filepath.Join(folder, "tree"), filepath.Join(folder, "tools")
			// Only these programs exist, so that no build can begin.
			for _, program := range []string{"bash", "dirname", "sed", "head", "git", "realpath", "ls", "env", "mkdir"} {
				link(t, program, tools)
			}
			for _, sub := range []string{".github", "scripts"} {
				if err := os.MkdirAll(filepath.Join(tree, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			write(t, filepath.Join(tree, ".github/CHANGELOG.md"), test.changes)
			write(t, filepath.Join(tree, "scripts/release.sh"), read(t, "release.sh"))
			prepare := exec.Command("bash", "-ec", "git init -q; git add .; git -c user.name=a -c user.email=a@b commit -qm 'a: b'\n"+test.shell)
			prepare.Dir = tree
			if out, err := prepare.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			cmd := exec.Command("bash", "scripts/release.sh")
			cmd.Dir, cmd.Env = tree, append(os.Environ(), "PATH="+tools, "DIST="+filepath.Join(folder, "dist"))
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) {
				t.Errorf("%v, output %q, want a failure with %q", err, out, test.want)
			}
		})
	}
}

// TestKrewManifest renders the manifest of the plugin for archives of two platforms.
func TestKrewManifest(t *testing.T) {
	folder := t.TempDir()
	render := func() ([]byte, error) { return exec.Command("bash", "krew.sh", "1.2.3", folder).Output() }
	if out, err := render(); err == nil {
		t.Errorf("without an archive:\n%s", out)
	}
	write(t, filepath.Join(folder, "kubectl-smartnat_1.2.3_linux_amd64.tar.gz"), "one")
	write(t, filepath.Join(folder, "kubectl-smartnat_1.2.3_windows_amd64.tar.gz"), "two")
	write(t, filepath.Join(folder, "kubectl-smartnat_1.2.2_darwin_arm64.tar.gz"), "of another version")
	out, err := render()
	if err != nil {
		t.Fatal(err)
	}
	type platform struct {
		Selector         struct{ MatchLabels map[string]string }
		URI, SHA256, Bin string
	}
	var got struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			Version   string
			Platforms []platform
		}
	}
	if err := yaml.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	of := func(system, content, bin string) platform {
		p := platform{
			URI:    "https://github.com/smartnat/smartnat/releases/download/v1.2.3/kubectl-smartnat_1.2.3_" + system + "_amd64.tar.gz",
			SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(content))), Bin: bin,
		}
		p.Selector.MatchLabels = map[string]string{"os": system, "arch": "amd64"}
		return p
	}
	want := []platform{of("linux", "one", "kubectl-smartnat"), of("windows", "two", "kubectl-smartnat.exe")}
	if diff := cmp.Diff(want, got.Spec.Platforms); diff != "" || got.Kind != "Plugin" || got.Metadata.Name != "smartnat" || got.Spec.Version != "v1.2.3" ||
		got.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" {
		t.Errorf("-want +got\n%s\n%s", diff, out)
	}
}

// TestChartOfARelease compares the values of the chart with those of the tree.
func TestChartOfARelease(t *testing.T) {
	relay, nodes := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	folder := filepath.Join(t.TempDir(), "chart")
	if out, err := exec.Command("bash", "chart.sh", "1.2.3", relay, nodes, folder).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	parse := func(path string) (values map[string]any) {
		t.Helper()
		if err := yaml.Unmarshal([]byte(read(t, path)), &values); err != nil {
			t.Fatal(err)
		}
		return values
	}
	want := parse("../relay/chart/values.yaml")
	want["image"] = map[string]any{"repository": "ghcr.io/smartnat/smartnat-relay", "tag": "v1.2.3", "digest": relay}
	want["nodes"].(map[string]any)["image"] = map[string]any{"repository": "ghcr.io/smartnat/smartnatd", "tag": "v1.2.3", "digest": nodes}
	if diff := cmp.Diff(want, parse(filepath.Join(folder, "values.yaml"))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	want = parse("../relay/chart/Chart.yaml")
	want["version"], want["appVersion"] = "1.2.3", "1.2.3"
	if diff := cmp.Diff(want, parse(filepath.Join(folder, "Chart.yaml"))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for name, digests := range map[string][]string{
		"no digest":     {relay, ""},
		"a tag":         {"v1.2.3", nodes},
		"a short one":   {relay, nodes[:len(nodes)-1]},
		"one at a time": {relay + nodes, ""},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "chart")
			if out, err := exec.Command("bash", "chart.sh", "1.2.3", digests[0], digests[1], folder).CombinedOutput(); err == nil || !strings.Contains(string(out), "sha256:DIGEST") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// link makes a program of the host available in a folder.
func link(t *testing.T, program, folder string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(folder, program)); err != nil {
		t.Fatal(err)
	}
}

// TestActionsArePinned expects that each action of a workflow is named by its commit, since a tag can move, and says its version.
func TestActionsArePinned(t *testing.T) {
	files, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d workflows, %v", len(files), err)
	}
	pinned := regexp.MustCompile(`^(- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	actions := 0
	for _, file := range files {
		for line := range strings.Lines(read(t, file)) {
			if line = strings.TrimSpace(line); !strings.Contains(line, "uses:") {
				continue
			}
			actions++
			if !pinned.MatchString(line) {
				t.Errorf("%s: %s: want OWNER/NAME@COMMIT # vVERSION", file, line)
			}
		}
	}
	if actions < 5 {
		t.Errorf("%d actions, want at least 5", actions)
	}
}

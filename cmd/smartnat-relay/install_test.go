// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// installedImage is the image of a release.
const installedImage = "registry.example.com:5000/smartnat-relay@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// writeManifest runs the script that a release runs.
func (p *controlPlane) writeManifest(image string) (string, error) {
	cmd := exec.CommandContext(p.t.Context(), "../../scripts/manifests.sh", image, p.path("install.yaml"))
	cmd.Env = append(os.Environ(), "KUBECTL="+filepath.Join(p.tools, "kubectl"), "VERSION=v0.0.0-test")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// testInstall checks the file that startRelay has installed.
func testInstall(t *testing.T, p *controlPlane) {
	text := p.read("install.yaml")
	if got := strings.Count(text, "image: "+installedImage+"\n"); got != 1 || strings.Contains(text, ":latest") {
		t.Errorf("the image by digest occurs %d times, want once and no tag", got)
	}
	if !strings.Contains(text, "# SmartNat v0.0.0-test for a cluster") {
		t.Error("the file does not name its version")
	}
	out := p.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", p.path("install.yaml"))
	if got := strings.Count(out, " (server dry run)"); got != strings.Count(text, "\nkind: ") || strings.Contains(out, "Warning") {
		t.Errorf("a second apply, in a dry run:\n%s", out)
	}
	for _, image := range []string{"", "smartnat-relay:latest", "smartnat-relay@sha256:12", "a b@sha256:" + strings.Repeat("0", 64), "x\"@sha256:" + strings.Repeat("0", 64)} {
		if out, err := p.writeManifest(image); err == nil || !strings.Contains(out, "is not NAME@sha256:DIGEST") {
			t.Errorf("image %q: %v: %s", image, err, out)
		}
	}
	if p.read("install.yaml") != text {
		t.Error("a refused image changed the file")
	}
}

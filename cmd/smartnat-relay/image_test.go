// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// images is a private store of container images.
type images struct {
	t   *testing.T
	env []string
}

func newImages(t *testing.T) *images {
	t.Helper()
	testenv.RequireKernel(t)
	testenv.RequireTool(t, "buildah")
	dir := t.TempDir()
	conf := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "graph"), filepath.Join(dir, "run"))
	if err := os.WriteFile(filepath.Join(dir, "storage.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	// Without container networking and other features that a host may lack: chroot isolation is enough for one program.
	return &images{t: t, env: append(os.Environ(), "CONTAINERS_STORAGE_CONF="+filepath.Join(dir, "storage.conf"),
		"BUILDAH_ISOLATION=chroot", "ENGINE=buildah", "VERSION=v0.0.0-test", "SOURCE_DATE_EPOCH=1700000000")}
}

func (i *images) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = i.env
	return cmd
}

func (i *images) run(program string, args ...string) string {
	i.t.Helper()
	var stderr bytes.Buffer
	cmd := i.command(program, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		i.t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// TestImage builds the image and runs it as the manifests do: as their user, with read-only files.
func TestImage(t *testing.T) {
	i := newImages(t)
	const image = "localhost/smartnat-relay:test"
	if got := i.run("../../scripts/image.sh", image); got != image {
		t.Errorf("image.sh printed %q, want %q", got, image)
	}
	container := i.run("buildah", "from", image)
	t.Run("contains only the program", func(t *testing.T) {
		root := i.run("buildah", "mount", container)
		entries, err := os.ReadDir(root)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if diff := cmp.Diff([]string{"smartnat-relay"}, names); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		i.run("buildah", "umount", container)
		want := "65532:65532 [/smartnat-relay]"
		if got := i.run("buildah", "inspect", "--type=image", "--format={{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}", image); got != want {
			t.Errorf("runs as %s, want %s", got, want)
		}
	})
	t.Run("prints its version", func(t *testing.T) {
		if got := i.run("buildah", "run", container, "--", "/smartnat-relay", "version"); !strings.HasPrefix(got, "smartnat-relay v0.0.0-test ") {
			t.Errorf("%q", got)
		}
	})
	t.Run("serves", func(t *testing.T) { testImageServes(t, i, container) })
}

func testImageServes(t *testing.T, i *images, container string) {
	p := startControlPlane(t)
	p.kubectl("apply", "--kustomize=../../relay/manifests")
	p.kubectl("wait", "--for=condition=Established", "crd/mappings.smartnat.aureacentral.com", "--timeout=30s")
	p.issue("relay", pkix.Name{CommonName: "smartnat-relay"})
	p.tokenKubeconfig("kubeconfig", p.kubectl("--namespace=smartnat", "create", "token", "smartnat-relay"))
	// As in a Secret volume: readable by the pod's group.
	for _, name := range []string{"relay.crt", "relay.key", "kubeconfig", "ca.crt"} {
		if err := os.Chown(p.path(name), 0, 65532); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p.path(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := i.command("buildah", "run", "--volume", p.dir+":"+p.dir+":ro", container, "--", "/smartnat-relay",
		"--kubeconfig", p.path("kubeconfig"), "--bind-address=127.0.0.1",
		"--tls-cert-file", p.path("relay.crt"), "--tls-private-key-file", p.path("relay.key"))
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of the relay:\n%s", output.String())
		}
	})
	anonymous := p.client("")
	p.eventually("the relay of the image to be ready", func() bool { return get(anonymous, relayURL+"/readyz") == http.StatusOK })
	if got := get(anonymous, listPath); got != http.StatusUnauthorized {
		t.Errorf("unauthenticated: status %d, want 401", got)
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// Paths that the process outside the namespaces, which has network access, prepared for the process inside, which has none.
const (
	repoKey = "SMARTNAT_LAB_REPO"
	kubeKey = "SMARTNAT_LAB_KUBE"
	binKey  = "SMARTNAT_LAB_BIN"
)

// Main is testenv.Main for packages whose tests use a lab. It first builds SmartNat's programs into a cache outside the tree.
// It does not build the control plane, which can take minutes; New reports if it is missing.
func Main(m *testing.M) {
	if err := prepare("--where"); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		os.Exit(1)
	}
	testenv.Main(m)
}

// Run is testenv.Run for programs that use a lab. It first builds everything that the lab runs. It builds the control plane,
// which can take minutes, only if the options for Start need it.
func Run(program func() int, opts ...Option) (status int, err error) {
	var flags []string
	if newOptions(opts).controlPlane == noControlPlane {
		flags = append(flags, "--where")
	}
	if err := prepare(flags...); err != nil {
		return 1, err
	}
	return testenv.Run(program)
}

// prepare builds SmartNat's programs and, depending on the flags for scripts/kube/build.sh, the control plane.
func prepare(kubeFlags ...string) error {
	if testenv.Inside() || os.Getenv(repoKey) != "" {
		return nil
	}
	repo, err := output("go", "list", "-m", "-f", "{{.Dir}}", "github.com/smartnat/smartnat")
	if err != nil {
		return err
	}
	kube, err := output(append([]string{filepath.Join(repo, "scripts/kube/build.sh")}, kubeFlags...)...)
	if err != nil {
		return err
	}
	bin, err := build(repo)
	if err != nil {
		// The lab works without these programs; starting one reports an error.
		fmt.Fprintf(os.Stderr, "lab: building SmartNat's programs: %v\n", err)
		bin = ""
	}
	for key, value := range map[string]string{repoKey: repo, kubeKey: kube, binKey: bin} {
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	return nil
}

// build builds SmartNat's programs into the cache as they are shipped: static and stripped. (The race detector needs
// CGO_ENABLED=1 in the environment.) It rebuilds programs that are out of date. A lock serializes the builds of test binaries
// of several packages.
func build(repo string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "smartnat", fmt.Sprintf("lab-%.6x", sha256.Sum256([]byte(repo))))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }() // releases the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", dir, err)
	}
	_, err = output("env", "CGO_ENABLED="+cmp.Or(os.Getenv("CGO_ENABLED"), "0"),
		"go", "-C", repo, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/...")
	return dir, err
}

// output runs a program, passes its standard error through, and returns its standard output.
func output(argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", argv[0], err)
	}
	return string(bytes.TrimSpace(text)), nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kubectl runs the real kubectl on the control plane's host with all rights. Messages of the API server are in the output and
// in the error.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return l.kubectl(ctx, "", args...)
}

// KubectlApply runs `kubectl apply -f -` with the YAML.
func (l *Lab) KubectlApply(ctx context.Context, yaml string) (string, error) {
	return l.kubectl(ctx, yaml, "apply", "-f", "-")
}

// Delete runs `kubectl delete -f -` with the YAML.
func (l *Lab) Delete(ctx context.Context, yaml string) (string, error) {
	return l.kubectl(ctx, yaml, "delete", "-f", "-")
}

func (l *Lab) kubectl(ctx context.Context, input string, args ...string) (string, error) {
	argv := append([]string{l.kubeProgram("kubectl"), "--kubeconfig=" + AdminKubeconfig, "--cache-dir=" + workDir + "/kubectl"}, args...)
	return l.Host(Control).ExecInput(ctx, input, argv...)
}

// ApplyCRDs applies the Mapping CRD and waits until the API server serves it.
func (l *Lab) ApplyCRDs(ctx context.Context) error {
	if _, err := l.Kubectl(ctx, "apply", "--server-side", "-f", l.repo+"/apis/crds"); err != nil {
		return err
	}
	_, err := l.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=20s", "crd/mappings.smartnat.aureacentral.com")
	return err
}

// CreateNamespace creates a namespace for the objects of one test.
func (l *Lab) CreateNamespace(ctx context.Context, name string) error {
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := l.kube.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return nil
}

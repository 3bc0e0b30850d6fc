// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// bind replaces the Secret to which tokens of the gateway are bound, which ends all earlier ones.
func (e *Enrollment) bind(ctx context.Context) (*authenticationv1.BoundObjectReference, error) {
	in := e.Client.Resource(secrets).Namespace(e.Namespace)
	existing, found, err := get[corev1.Secret](ctx, in, e.binding())
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the Secret %s/%s: %w", e.Namespace, e.binding(), err)
	case found && existing.Labels[gatewayLabel] != e.Gateway:
		return nil, fmt.Errorf("the Secret %s/%s exists and does not belong to a gateway %s: delete it, or choose another name", e.Namespace, e.binding(), e.Gateway)
	case found:
		if err := in.Delete(ctx, existing.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(existing.UID))}); err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("deleting the Secret %s/%s: %w", e.Namespace, e.binding(), err)
		}
	}
	immutable := true
	secret, err := create(ctx, in, &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: e.binding(), Namespace: e.Namespace, Labels: e.labels()},
		Type:       corev1.SecretTypeOpaque, Immutable: &immutable,
	})
	if err != nil {
		return nil, fmt.Errorf("creating the Secret %s/%s: %w", e.Namespace, e.binding(), err)
	}
	err = annotate(ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace), e.Gateway, map[string]any{v1alpha1.EnrollmentAnnotation: string(secret.UID)})
	if err != nil {
		return nil, fmt.Errorf("binding the ServiceAccount %s/%s to the Secret %s: %w", e.Namespace, e.Gateway, secret.Name, err)
	}
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: secret.Name, UID: secret.UID}, nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/enroll"
)

// switchTimeout bounds the request that ends the earlier enrollment, which an interrupt must not leave half done.
const switchTimeout = 30 * time.Second

var errSuperseded = errors.New("was enrolled or revoked by another command at the same time: use the bundle of that one, or enroll again")

// bind adds a token to a bundle that is bound to a Secret of its own, and then ends all earlier tokens of the gateway. The earlier ones
// work until the new one is certain. done reports whether it is; an error then is about what is left of earlier ones.
func (e *Enrollment) bind(ctx context.Context, b *enroll.Bundle) (done bool, err error) {
	account, err := e.read(ctx)
	if err != nil {
		return false, err
	}
	secret, err := e.newSecret(ctx)
	if err != nil {
		return false, err
	}
	// A Secret of this list is of an earlier enrollment, or of one at the same time, which loses once this one wins.
	earlier, err := e.enrollments(ctx)
	if err != nil {
		return false, err
	}
	b.Relay.Token, b.Expires, err = e.token(ctx, &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: secret.Name, UID: secret.UID})
	if apierrors.IsNotFound(err) { // the one that won has deleted the Secret
		err = e.superseded()
	}
	if err != nil {
		return false, err
	}
	if err := e.enforce(ctx, account, secret.UID); err != nil {
		return false, err
	}
	earlier = slices.DeleteFunc(earlier, func(s corev1.Secret) bool { return s.UID == secret.UID })
	if err := e.remove(ctx, earlier); err != nil {
		return true, fmt.Errorf("relays refuse earlier tokens, but what they are bound to is left: %w", err)
	}
	// A later enrollment, or a revocation, may have ended this one already.
	account, err = e.read(ctx)
	if err == nil && enrollmentOf(account) != string(secret.UID) {
		err = e.superseded()
	}
	return !errors.Is(err, errSuperseded), err
}

// read reads the ServiceAccount, which must exist.
func (e *Enrollment) read(ctx context.Context) (*corev1.ServiceAccount, error) {
	account, found, err := get[corev1.ServiceAccount](ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace), e.Gateway)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the ServiceAccount %s/%s: %w", e.Namespace, e.Gateway, err)
	case !found:
		return nil, e.superseded()
	}
	return account, nil
}

func enrollmentOf(account *corev1.ServiceAccount) string {
	return account.Annotations[v1alpha1.EnrollmentAnnotation]
}

func (e *Enrollment) superseded() error {
	return fmt.Errorf("gateway %s %w", e.Gateway, errSuperseded)
}

// newSecret creates a Secret under a name of its own, so that it does not replace an earlier one.
func (e *Enrollment) newSecret(ctx context.Context) (*corev1.Secret, error) {
	immutable := true
	secret, err := create(ctx, e.Client.Resource(secrets).Namespace(e.Namespace), &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: e.binding() + "-", Namespace: e.Namespace, Labels: e.labels()},
		Type:       corev1.SecretTypeOpaque, Immutable: &immutable,
	})
	if err != nil {
		return nil, fmt.Errorf("creating a Secret %s/%s-*: %w", e.Namespace, e.binding(), err)
	}
	return secret, nil
}

// enrollments reads the Secrets of all enrollments of the gateway, also of those that failed.
func (e *Enrollment) enrollments(ctx context.Context) ([]corev1.Secret, error) {
	all, err := list[corev1.Secret](ctx, e.Client.Resource(secrets).Namespace(e.Namespace), gatewayLabel+"="+e.Gateway)
	if err != nil {
		return nil, fmt.Errorf("reading the Secrets of the gateway %s: %w", e.Gateway, err)
	}
	return all, nil
}

// enforce makes relays refuse all tokens that are not bound to a Secret, if the ServiceAccount still has the enrollment that was read.
func (e *Enrollment) enforce(ctx context.Context, read *corev1.ServiceAccount, secret types.UID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switchTimeout)
	defer cancel()
	// Other changes of the ServiceAccount do no harm.
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		account, err := e.read(ctx)
		if err != nil {
			return err
		}
		if account.UID != read.UID || enrollmentOf(account) != enrollmentOf(read) {
			return e.superseded()
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": account.UID, "resourceVersion": account.ResourceVersion,
			"annotations": map[string]any{v1alpha1.EnrollmentAnnotation: secret},
		}})
		if err != nil {
			return err
		}
		_, err = e.Client.Resource(serviceAccounts).Namespace(e.Namespace).Patch(ctx, e.Gateway, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
		return err
	})
	if err != nil {
		return fmt.Errorf("binding the ServiceAccount %s/%s to a new Secret: %w", e.Namespace, e.Gateway, err)
	}
	return nil
}

// remove deletes Secrets, and no others that got their names.
func (e *Enrollment) remove(ctx context.Context, from []corev1.Secret) error {
	in := e.Client.Resource(secrets).Namespace(e.Namespace)
	for _, s := range from {
		err := in.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting the Secret %s/%s: %w", e.Namespace, s.Name, err)
		}
	}
	return nil
}

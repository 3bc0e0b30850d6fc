// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// labels mark the objects of this gateway.
func (e *Enrollment) labels() map[string]string {
	return map[string]string{"app.kubernetes.io/part-of": "smartnat", gatewayLabel: e.Gateway}
}

// account creates the ServiceAccount and its binding.
func (e *Enrollment) account(ctx context.Context) error {
	if err := e.owned(ctx); err != nil {
		return err
	}
	annotations, unwanted := e.annotations()
	mount := false
	if err := settle(ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace), e.Gateway, &corev1.ServiceAccount{
		TypeMeta:                     metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta:                   metav1.ObjectMeta{Name: e.Gateway, Namespace: e.Namespace, Labels: e.labels(), Annotations: annotations},
		AutomountServiceAccountToken: &mount,
	}, unwanted...); err != nil {
		return err
	}
	return settle(ctx, e.Client.Resource(bindings), e.Gateway, &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: e.binding(), Labels: e.labels()},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: gatewayRole},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: e.Gateway, Namespace: e.Namespace}},
	})
}

// annotations returns those that say what the account may see, and those that it must not have. The addresses are spelled in one way.
func (e *Enrollment) annotations() (wanted map[string]string, unwanted []string) {
	wanted = map[string]string{}
	if enrolled, err := validation.ParseEnrolled(e.Addresses); err == nil {
		wanted[v1alpha1.AddressesAnnotation] = enrolled.String()
	} else if e.Addresses != "" { // all
		unwanted = append(unwanted, v1alpha1.AddressesAnnotation)
	}
	if e.Node != "" {
		wanted[v1alpha1.NodeAnnotation] = e.Node
	} else {
		unwanted = append(unwanted, v1alpha1.NodeAnnotation)
	}
	return wanted, unwanted
}

// Limit changes what an enrolled gateway may see, to Addresses. Its credentials stay.
func (e *Enrollment) Limit(ctx context.Context) error {
	if err := e.owned(ctx); err != nil {
		return err
	}
	if e.Addresses == "" {
		return nil
	}
	wanted, _ := e.annotations()
	addresses := map[string]any{v1alpha1.AddressesAnnotation: nil} // null removes it, for all
	if text, limited := wanted[v1alpha1.AddressesAnnotation]; limited {
		addresses[v1alpha1.AddressesAnnotation] = text
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": addresses}})
	if err != nil {
		return err
	}
	_, err = e.Client.Resource(serviceAccounts).Namespace(e.Namespace).Patch(ctx, e.Gateway, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("gateway %s is not enrolled: the ServiceAccount %s/%[1]s does not exist", e.Gateway, e.Namespace)
	}
	return err
}

// renewable lets the gateway ask for tokens of its own account, and the relay make them, by a Role of this account alone. A relay cannot
// make tokens of other accounts, such as its own.
func (e *Enrollment) renewable(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: e.binding(), Namespace: e.Namespace, Labels: e.labels()}
	role := &rbacv1.Role{
		TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"}, ObjectMeta: meta,
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{e.Gateway}, Verbs: []string{"create"}}},
	}
	binding := &rbacv1.RoleBinding{
		TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"}, ObjectMeta: meta,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{
			{Kind: "ServiceAccount", Name: e.Gateway, Namespace: e.Namespace}, {Kind: "ServiceAccount", Name: relayService, Namespace: e.Namespace},
		},
	}
	if err := settle(ctx, e.Client.Resource(roles).Namespace(e.Namespace), e.Gateway, role); err != nil {
		return err
	}
	return settle(ctx, e.Client.Resource(roleBindings).Namespace(e.Namespace), e.Gateway, binding)
}

func (e *Enrollment) binding() string { return gatewayRole + "-" + e.Gateway }

// owned fails if the ServiceAccount exists and is not one of a gateway.
func (e *Enrollment) owned(ctx context.Context) error {
	account, found, err := get[corev1.ServiceAccount](ctx, e.Client.Resource(serviceAccounts).Namespace(e.Namespace), e.Gateway)
	if err == nil && found && account.Labels[gatewayLabel] != e.Gateway {
		err = fmt.Errorf("the ServiceAccount %s of the namespace %s does not belong to a gateway: choose another name", e.Gateway, e.Namespace)
	}
	return err
}

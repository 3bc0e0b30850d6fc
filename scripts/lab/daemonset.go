// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// enterPod makes a read-only root of the image, with the volumes of the pod and kernel parameters that it cannot write, and runs the
// program in it. Entering the root takes CAP_SYS_CHROOT, which a container runtime does not need.
const enterPod = `
root=$1 program=$2 capabilities=$3
shift 3
mkdir -p "$root/proc" "$root/etc" "$root/run/smartnat" "$root/run/secrets" "$root/var/lib/smartnat" /run/smartnat /var/lib/smartnat
ln -sfn ../run "$root/var/run"
cp "$program" "$root/smartnatd"
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
mount --bind /proc/sys "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind /etc "$root/etc"
mount -o remount,bind,ro "$root/etc"
mount --bind /run/secrets "$root/run/secrets"
mount --bind /run/smartnat "$root/run/smartnat"
mount --bind /var/lib/smartnat "$root/var/lib/smartnat"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs --inh-caps=-all --bounding-set="-all,+sys_chroot,$capabilities" chroot "$root" /smartnatd "$@"
`

// RunNodePod does what a kubelet does for a pod of the DaemonSet of relay/manifests/nodes on a node. The manifests must have been applied.
func (l *Lab) RunNodePod(ctx context.Context, node string) (*Process, error) {
	const namespace, name, account = "smartnat-nodes", "smartnatd", "/run/secrets/kubernetes.io/serviceaccount"
	daemons, err := l.kube.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the DaemonSet: %w", err)
	}
	spec := daemons.Spec.Template.Spec
	container := spec.Containers[0]
	if !spec.HostNetwork || !*container.SecurityContext.ReadOnlyRootFilesystem || *container.SecurityContext.AllowPrivilegeEscalation {
		return nil, fmt.Errorf("the pod is not what this function runs: %+v", spec)
	}
	host := l.Host(node)
	for _, volume := range spec.Volumes {
		if volume.ConfigMap == nil {
			continue
		}
		config, err := l.kube.CoreV1().ConfigMaps(namespace).Get(ctx, volume.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("reading the ConfigMap: %w", err)
		}
		for file, text := range config.Data {
			if err := host.WriteFile(filepath.Join("/etc/smartnat", file), text); err != nil {
				return nil, err
			}
		}
	}
	token, err := l.Kubectl(ctx, "create", "token", spec.ServiceAccountName, "--namespace="+namespace, "--duration=24h")
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(caFile)
	if err := errors.Join(err, host.WriteFile(account+"/token", strings.TrimSpace(token)), host.WriteFile(account+"/ca.crt", string(ca))); err != nil {
		return nil, err
	}
	program, err := l.program("smartnatd")
	if err != nil {
		return nil, err
	}
	env := []string{"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"}
	for _, e := range container.Env {
		if e.ValueFrom != nil && e.ValueFrom.FieldRef.FieldPath == "spec.nodeName" {
			e.Value = node
		}
		env = append(env, e.Name+"="+e.Value)
	}
	argv := []string{"unshare", "--mount", "sh", "-ec", enterPod, "sh", filepath.Join(workDir, "pod-"+node), program, added(container.SecurityContext.Capabilities)}
	return host.Start("smartnatd-pod", env, append(argv, container.Args...)...)
}

// added returns the capabilities of a container as setpriv(1) spells them.
func added(capabilities *corev1.Capabilities) string {
	var list []string
	for _, c := range capabilities.Add {
		list = append(list, "+"+strings.ToLower(string(c)))
	}
	return strings.Join(list, ",")
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteManifest writes the install.yaml of a release to a file that all hosts see, and returns its path.
func (l *Lab) WriteManifest(ctx context.Context) (string, error) {
	file := filepath.Join(workDir, "install.yaml")
	const image = "registry.example.com/smartnat-relay@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	_, err := l.Host(Control).Exec(ctx, "env", "KUBECTL="+l.kubeProgram("kubectl"), filepath.Join(l.repo, "scripts/manifests.sh"), image, file)
	return file, err
}

// RunDeployedRelay does what controllers and kubelets do for the Deployment of the relay: it makes a pod of its template, and runs
// the program in it with the arguments and the ServiceAccount of the template. It returns when the relay is ready.
func (l *Lab) RunDeployedRelay(ctx context.Context) (*Process, error) {
	const namespace, name = "smartnat", "smartnat-relay"
	deployment, err := l.kube.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the Deployment: %w", err)
	}
	template := deployment.Spec.Template
	pod := Pod{Namespace: namespace, Name: name + "-1", Labels: template.Labels, Template: &template.Spec}
	if _, err := l.AddPod(ctx, pod); err != nil {
		return nil, err
	}
	program, err := l.program(name)
	if err != nil {
		return nil, err
	}
	token, err := l.token(ctx, template.Spec.ServiceAccountName)
	if err != nil {
		return nil, err
	}
	const files = "smartnat-relay-deployed"
	if err := writeKubeconfig(kubeconfigFile(files), apiServer, clientcmdapi.AuthInfo{Token: token}); err != nil {
		return nil, err
	}
	host := l.PodHost(namespace, pod.Name)
	return host.start(ctx, command{
		name: pod.Name, argv: append([]string{program, "--kubeconfig=" + kubeconfigFile(files)}, template.Spec.Containers[0].Args...),
		env: []string{"SMARTNAT_RELAY_NAMESPACE=" + namespace},
		ready: func(ctx context.Context) error {
			client := host.HTTPClient()
			client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // as a kubelet
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:8443/readyz", nil)
			if err != nil {
				return err
			}
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("readyz: %s", response.Status)
			}
			return nil
		},
	})
}

// Administer runs a line of a document as the shell of the cluster's administrator does, in a folder.
func (l *Lab) Administer(ctx context.Context, folder, line string) (string, error) {
	return l.Host(Control).Exec(ctx, "env", "KUBECONFIG="+AdminKubeconfig, "KUBECACHEDIR="+workDir+"/kubectl", "sh", "-ec", "cd "+folder+"\n"+line)
}

// BuildPackages builds the packages of this machine's architecture into a folder. The tool for that must have been built.
func (l *Lab) BuildPackages(ctx context.Context, folder string) error {
	_, err := l.Host(Control).Exec(ctx, "env", "DIST="+folder, filepath.Join(l.repo, "scripts/packages/build.sh"), runtime.GOARCH)
	return err
}

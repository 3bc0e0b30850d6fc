// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const apiServer = "https://" + ControlAddress + ":6443"

// controllers lists the enabled controllers. The lab itself maintains nodes, pods and their conditions.
const controllers = "serviceaccount-controller,endpointslice-controller,namespace-controller," +
	"garbage-collector-controller,clusterrole-aggregation-controller,root-ca-certificate-publisher-controller"

// startControlPlane starts the real programs and returns when the API answers and the nodes exist. kube-proxies and
// controllers may still be starting.
func (l *Lab) startControlPlane(ctx context.Context) error {
	if err := l.issueCertificates(); err != nil {
		return err
	}
	control := l.Host(Control)
	if _, err := control.Start("etcd", nil, l.kubeProgram("etcd"),
		"--data-dir="+filepath.Join(workDir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380"); err != nil {
		return err
	}
	api, err := control.Start("kube-apiserver", nil, l.kubeProgram("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address="+ControlAddress, "--advertise-address="+ControlAddress,
		"--secure-port=6443", "--tls-cert-file="+certFile("kube-apiserver"), "--tls-private-key-file="+keyFile("kube-apiserver"),
		"--client-ca-file="+caFile, "--authorization-mode=Node,RBAC", "--service-cluster-ip-range="+ServiceNetwork+","+ServiceNetwork6,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+keyFile("service-accounts"),
		"--service-account-signing-key-file="+keyFile("service-accounts"), "--enable-priority-and-fairness=false", "--profiling=false")
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", AdminKubeconfig)
	if err != nil {
		return fmt.Errorf("reading %s: %w", AdminKubeconfig, err)
	}
	config.QPS, config.Burst = -1, -1
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return control.Dial(ctx, network, address, 0)
	}
	if l.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	l.restConfig = config
	if l.applier, err = newApplier(config, l.kube); err != nil {
		return err
	}
	if err := api.until(ctx, func(ctx context.Context) error {
		return l.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return err
	}
	if l.options.controlPlane == apiServerAlone {
		return nil
	}
	return l.startAgents(ctx)
}

// startAgents starts the clients of the API server and creates the nodes.
func (l *Lab) startAgents(ctx context.Context) error {
	if _, err := l.Host(Control).Start("kube-controller-manager", nil, l.kubeProgram("kube-controller-manager"),
		"--kubeconfig="+kubeconfigFile("kube-controller-manager"), "--controllers="+controllers, "--leader-elect=false",
		"--use-service-account-credentials", "--root-ca-file="+caFile, "--secure-port=0", "--profiling=false", "--kube-api-qps=200", "--kube-api-burst=400"); err != nil {
		return err
	}
	for _, node := range l.nodes {
		if err := l.createNode(ctx, node); err != nil {
			return err
		}
		var flags []string
		if mode := l.options.proxyModes[node.name]; mode != "" {
			flags = []string{"--proxy-mode=" + mode}
		}
		if _, err := l.StartKubeProxy(node.name, node.name, flags...); err != nil {
			return err
		}
	}
	return nil
}

// StartKubeProxy starts kube-proxy on a host, with the name of a node. flags precede those of the lab.
func (l *Lab) StartKubeProxy(host, node string, flags ...string) (*Process, error) {
	argv := []string{l.kubeProgram("kube-proxy"),
		"--kubeconfig=" + kubeconfigFile("kube-proxy"), "--hostname-override=" + node, "--proxy-mode=iptables",
		"--cluster-cidr=" + PodNetwork + "," + PodNetwork6, "--iptables-min-sync-period=100ms", "--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"}
	return l.Host(host).Start("kube-proxy", nil, append(argv, flags...)...)
}

func (l *Lab) issueCertificates() (err error) {
	if l.authority, err = newAuthority(); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("creating the key of service accounts: %w", err)
	}
	if err := writeKey(keyFile("service-accounts"), key); err != nil {
		return err
	}
	for name, id := range map[string]identity{
		"kube-apiserver": {user: "kube-apiserver", names: []string{
			ControlAddress, "10.96.0.1", "127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		}},
		"admin":                   {user: "admin", group: "system:masters"},
		"kube-controller-manager": {user: "system:kube-controller-manager"},
		"kube-proxy":              {user: "system:kube-proxy"},
	} {
		if err := l.authority.issue(name, id); err != nil {
			return err
		}
		user := clientcmdapi.AuthInfo{ClientCertificate: certFile(name), ClientKey: keyFile(name)}
		if err := writeKubeconfig(kubeconfigFile(name), apiServer, user); err != nil {
			return err
		}
	}
	return nil
}

// writeKubeconfig writes a kubeconfig for one user of one server with a certificate of the lab's authority.
func writeKubeconfig(path, server string, user clientcmdapi.AuthInfo) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: caFile}
	config.AuthInfos["lab"] = &user
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "lab"}
	config.CurrentContext = "lab"
	return clientcmd.WriteToFile(*config, path)
}

func (l *Lab) createNode(ctx context.Context, n *nodeState) error {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{corev1.LabelHostname: n.name}},
		Spec:       corev1.NodeSpec{PodCIDR: n.pods[0].String(), PodCIDRs: []string{n.pods[0].String(), n.pods[1].String()}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: n.addresses[0]},
				{Type: corev1.NodeInternalIP, Address: n.addresses[1]},
				{Type: corev1.NodeHostName, Address: n.name},
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "LabReady"}},
		},
	}
	if _, err := l.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating node %s: %w", n.name, err)
	}
	return nil
}

// Kube returns a client of the API server with all rights.
func (l *Lab) Kube() kubernetes.Interface { return l.kube }

// EndpointSliceController returns a client with all rights that impersonates the EndpointSlice controller. The relay's
// admission policy lets no other user write the slices that this controller manages.
func (l *Lab) EndpointSliceController() (kubernetes.Interface, error) {
	config := l.RESTConfig()
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:kube-system:endpointslice-controller", Groups: []string{"system:masters"},
	}
	return kubernetes.NewForConfig(config)
}

// RESTConfig returns the config for other clients with all rights.
func (l *Lab) RESTConfig() *rest.Config { return rest.CopyConfig(l.restConfig) }

func (l *Lab) kubeProgram(name string) string { return filepath.Join(l.kubeDir, name) }
func kubeconfigFile(name string) string       { return filepath.Join(pkiDir, name+".kubeconfig") }

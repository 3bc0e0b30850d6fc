// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// patience bounds each wait of these tests. A control plane starts much faster.
const patience = time.Minute

const (
	etcdURL    = "http://127.0.0.1:2379"
	clusterURL = "https://127.0.0.1:6443"
)

// klog is global, so redirect it before any Kubernetes code runs.
func TestMain(m *testing.M) {
	librariesLogTo(logrus.New())
	testenv.Main(m)
}

// controlPlane is a real etcd and kube-apiserver, on the loopback of the test's own network namespace.
type controlPlane struct {
	t     *testing.T
	dir   string // of this run
	tools string // with the binaries
	ca    authority
	log   safeBuffer // of the relay
}

// safeBuffer is a buffer that a test may read while the program under test writes it.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func startControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	testenv.RequireKernel(t)
	where, err := exec.Command("bash", "../../scripts/kube/build.sh", "--where").Output()
	if err != nil {
		t.Fatal(err)
	}
	p := &controlPlane{t: t, dir: t.TempDir(), tools: strings.TrimSpace(string(where)), ca: newAuthority(t)}
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		testenv.RequireTool(t, filepath.Join(p.tools, name))
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	p.write("ca.crt", p.ca.pem())
	p.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"})
	p.issue("admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	p.issue("service-accounts", pkix.Name{CommonName: "service-accounts"})

	p.start("etcd", "--data-dir", p.path("etcd"), "--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync")
	p.start("kube-apiserver", "--etcd-servers", etcdURL, "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
		"--secure-port=6443", "--tls-cert-file", p.path("apiserver.crt"), "--tls-private-key-file", p.path("apiserver.key"),
		"--client-ca-file", p.path("ca.crt"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file", p.path("service-accounts.crt"),
		"--service-account-signing-key-file", p.path("service-accounts.key"))
	admin := p.client("admin")
	p.eventually("kube-apiserver to be ready", func() bool { return get(admin, clusterURL+"/readyz") == http.StatusOK })
	return p
}

func (p *controlPlane) path(name string) string { return filepath.Join(p.dir, name) }

func (p *controlPlane) write(name string, text []byte) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), text, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// start runs a control plane program until the test ends.
func (p *controlPlane) start(name string, args ...string) {
	p.t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(filepath.Join(p.tools, name), args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		if p.t.Failed() {
			lines := strings.Split(output.String(), "\n")
			p.t.Logf("last lines of %s:\n%s", name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
		}
	})
}

// kubectl runs kubectl as the admin of the cluster and returns its output.
func (p *controlPlane) kubectl(args ...string) string {
	p.t.Helper()
	out, err := p.kubectlAs(append([]string{"--server", clusterURL, "--client-certificate", p.path("admin.crt"),
		"--client-key", p.path("admin.key")}, args...)...)
	if err != nil {
		p.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// kubectlAs runs kubectl with the server and user of the arguments.
func (p *controlPlane) kubectlAs(args ...string) (string, error) {
	p.t.Helper()
	cmd := p.kubectlCommand(p.t.Context(), args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *controlPlane) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.tools, "kubectl"),
		append([]string{"--kubeconfig=/dev/null", "--cache-dir", p.path("kubectl"), "--certificate-authority", p.path("ca.crt")}, args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// tokenKubeconfig writes a kubeconfig for a user with a token.
func (p *controlPlane) tokenKubeconfig(name, token string) string {
	p.t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: clusterURL, CertificateAuthority: p.path("ca.crt")}
	config.AuthInfos["user"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["context"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "user"}
	config.CurrentContext = "context"
	if err := clientcmd.WriteToFile(*config, p.path(name)); err != nil {
		p.t.Fatal(err)
	}
	return p.path(name)
}

// client returns an HTTP client with the client certificate of that name, or without one.
func (p *controlPlane) client(name string) *http.Client {
	p.t.Helper()
	config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("ca.crt")}}
	if name != "" {
		config.CertFile, config.KeyFile = p.path(name+".crt"), p.path(name+".key")
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(client.CloseIdleConnections)
	return client
}

func (p *controlPlane) eventually(what string, condition func() bool) {
	p.t.Helper()
	p.within(patience, what, condition)
}

func (p *controlPlane) within(patience time.Duration, what string, condition func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// get returns the status code of a response, or 0 on failure.
func get(client *http.Client, url string) int {
	resp, err := client.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// authority is the CA of all certificates of a test.
type authority struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "test"}, key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key: key, cert: ca}
}

func (a authority) pem() []byte { return certificatePEM(a.cert.Raw) }

// issue writes a certificate and its key, for a server on the loopback and for a client.
func (p *controlPlane) issue(name string, subject pkix.Name) {
	p.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		p.t.Fatal(err)
	}
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, p.ca.cert, key.Public(), p.ca.key)
	if err != nil {
		p.t.Fatal(err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name+".crt", certificatePEM(raw))
	p.write(name+".key", keyPEM)
}

func certificatePEM(raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: raw})
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

const (
	// patience bounds each wait, on a busy machine.
	patience = 30 * time.Second
	// try bounds one of several attempts.
	try = time.Second

	objectsFile = "/etc/smartnat/objects.yaml"
	source      = "source: {files: {paths: [" + objectsFile + "]}}\n"

	// twoUplinks is a config for world.start. Next hops come from the gateway's default routes, one by each uplink.
	twoUplinks = "uplinks: [{interface: eth1}, {interface: eth2}]\n"
)

// p1 on node1 and p2 on node2 are the pods of a world.
var (
	p1 = pod{"p1", "10.244.1.2", "fd00:244:1::2"}
	p2 = pod{"p2", "10.244.2.2", "fd00:244:2::2"}
)

type pod struct{ name, address, address6 string }

// world is a lab with hosts only (see ../README.md): the client reaches the gateway by two uplinks, pods answer behind it.
type world struct {
	*lab.Lab
	daemon *lab.Process
	// dataplane is the line of the config that chooses it, or empty.
	dataplane string
}

// eachVariant runs a test in a new world with each variant of iptables.
func eachVariant(t *testing.T, run func(t *testing.T, w *world)) {
	t.Helper()
	for _, variant := range []string{"legacy", "nf_tables"} {
		t.Run(variant, func(t *testing.T) { run(t, newWorld(t, variant)) })
	}
}

// eachPlane runs a test in a new world with each variant of iptables and with nftables, which writes no rule of iptables.
func eachPlane(t *testing.T, run func(t *testing.T, w *world)) {
	t.Helper()
	eachVariant(t, run)
	t.Run("nftables", func(t *testing.T) {
		w := newWorld(t, "nf_tables")
		w.dataplane = "dataplane: nftables\n"
		run(t, w)
		for _, program := range []string{"iptables-save", "ip6tables-save"} {
			if rules := w.gateway(t, program); strings.Contains(rules, "SMARTNAT-") {
				t.Errorf("%s: rules of iptables with nftables:\n%s", program, rules)
			}
		}
	})
}

// newWorld creates a world without pods and without a running smartnatd. It ends with the test.
func newWorld(t *testing.T, variant string) *world {
	t.Helper()
	w := &world{Lab: lab.New(t, lab.WithoutControlPlane(), lab.WithVariant(variant))}
	w.defaultRoutes(t)
	return w
}

// defaultRoutes adds default routes by the second uplink to a new gateway.
func (w *world) defaultRoutes(t *testing.T) {
	t.Helper()
	w.gateway(t, "ip route add default via 203.0.113.1 dev eth2 metric 200")
	w.gateway(t, "ip -6 route add default via 2001:db8:2::1 dev eth2 metric 2048")
}

// pods creates p1 and p2, which answer on the ports by TCP and UDP in both families.
func (w *world) pods(t *testing.T, ports ...uint16) {
	t.Helper()
	for _, want := range []struct {
		pod  pod
		node string
	}{{p1, lab.Node1}, {p2, lab.Node2}} {
		address, err := w.AddPod(timeout(t, patience), lab.Pod{Name: want.pod.name, Node: want.node, Ports: ports})
		if err != nil || address.String() != want.pod.address {
			t.Fatalf("%s has %s, want %s: %v", want.pod.name, address, want.pod.address, err)
		}
	}
}

// objects replaces all objects that smartnatd sees, even while it runs.
func (w *world) objects(t *testing.T, documents ...string) {
	t.Helper()
	if err := w.Host(lab.Gateway).WriteFile(objectsFile, strings.Join(documents, "\n---\n")); err != nil {
		t.Fatal(err)
	}
}

// start starts smartnatd with a config without source, and returns when it is ready.
func (w *world) start(t *testing.T, config string) {
	t.Helper()
	var err error
	if w.daemon, err = w.StartGateway(timeout(t, patience), source+w.dataplane+config); err != nil {
		t.Fatal(err)
	}
}

// stop stops smartnatd.
func (w *world) stop(t *testing.T) {
	t.Helper()
	if err := w.daemon.Stop(timeout(t, patience)); err != nil {
		t.Fatal(err)
	}
}

// gateway runs a command on the gateway that must succeed.
func (w *world) gateway(t *testing.T, line string) string {
	t.Helper()
	output, err := w.Host(lab.Gateway).Exec(timeout(t, patience), strings.Fields(line)...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// ask opens a connection or flow from a host and exchanges one message.
func (w *world) ask(ctx context.Context, host, network, address string) (lab.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, try)
	defer cancel()
	if network == "udp" {
		return w.Host(host).EchoUDP(ctx, address)
	}
	return w.Host(host).EchoTCP(ctx, address)
}

// await connects from a host until accept returns true for the answer; nil accepts any answer.
func (w *world) await(t *testing.T, host, network, address string, accept func(lab.Answer) bool) lab.Answer {
	t.Helper()
	var answer lab.Answer
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) (err error) {
		if answer, err = w.ask(ctx, host, network, address); err == nil && accept != nil && !accept(answer) {
			err = fmt.Errorf("answer %+v", answer)
		}
		return err
	}); err != nil {
		t.Errorf("%s to %s/%s: %v", host, address, network, err)
	}
	return answer
}

// open opens a TCP connection or UDP flow that lasts as long as the test.
func (w *world) open(t *testing.T, host, network, address string, sourcePort uint16) *lab.Flow {
	t.Helper()
	flow, err := w.Host(host).OpenFlow(timeout(t, patience), network, address, sourcePort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flow.Close() })
	return flow
}

// awaitEcho exchanges messages on a flow until accept returns true for the answer.
func awaitEcho(t *testing.T, flow *lab.Flow, accept func(lab.Answer) bool) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, try)
		defer cancel()
		answer, err := flow.Echo(ctx)
		if err == nil && !accept(answer) {
			err = fmt.Errorf("answer %+v", answer)
		}
		return err
	}); err != nil {
		t.Errorf("flow to %s: %v", flow.Conn.RemoteAddr(), err)
	}
}

// expectUnreached calls send, and then connects by UDP to addresses that answer, over the same paths. No packet of send may reach the
// pods, which may get only datagrams to the ports of those answers.
func (w *world) expectUnreached(t *testing.T, answering []string, send func()) {
	t.Helper()
	var captures []*lab.Capture
	for _, p := range []pod{p1, p2} {
		capture, err := w.PodHost("", p.name).Capture("eth0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = capture.Close() }()
		captures = append(captures, capture)
	}
	send()
	answered, seen := map[uint16]bool{}, map[uint16]bool{}
	for _, address := range answering {
		answered[w.await(t, lab.Client, "udp", address, nil).Port] = true
	}
	for _, capture := range captures {
		packets, err := capture.Packets()
		if err != nil {
			t.Fatal(err)
		}
		for _, packet := range packets {
			port := packet.Destination.Port()
			switch {
			case packet.Out, packet.Protocol == unix.IPPROTO_ICMPV6, packet.Protocol == 0: // neighbour discovery, multicast reports
			case packet.Protocol == unix.IPPROTO_TCP && packet.Flags&lab.SYN == 0: // the end of an earlier connection
			case packet.Protocol == unix.IPPROTO_UDP && answered[port]:
				seen[port] = true
			default:
				t.Errorf("a pod got %s", packet)
			}
		}
	}
	if len(seen) != len(answered) {
		t.Errorf("of the answered ports %v, packets to %v were captured", answered, seen)
	}
}

// by accepts the answer of a pod on one of its ports.
func by(p pod, port uint16) func(lab.Answer) bool {
	return func(a lab.Answer) bool { return a.Pod == p.name && a.Port == port }
}

// service returns a dual-stack Service whose ports lead to the pods. A port is PORT/PROTOCOL or PORT:TARGETPORT/PROTOCOL.
func service(t *testing.T, name string, ports []string, pods ...pod) string {
	t.Helper()
	s := corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10", "fd00:96::10"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		},
	}
	var slicePorts []discoveryv1.EndpointPort
	for _, text := range ports {
		port := servicePort(t, text)
		s.Spec.Ports = append(s.Spec.Ports, port)
		slicePorts = append(slicePorts, discoveryv1.EndpointPort{Name: &port.Name, Port: &port.TargetPort.IntVal, Protocol: &port.Protocol})
	}
	documents := []string{document(t, s)}
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := discoveryv1.EndpointSlice{
			TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta: metav1.ObjectMeta{
				Name: name + "-" + strings.ToLower(string(family)), Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{discoveryv1.LabelServiceName: name},
			},
			AddressType: family, Ports: slicePorts,
		}
		for _, p := range pods {
			address, ready := p.address, true
			if family == discoveryv1.AddressTypeIPv6 {
				address = p.address6
			}
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			})
		}
		documents = append(documents, document(t, slice))
	}
	return strings.Join(documents, "\n---\n")
}

func servicePort(t *testing.T, text string) corev1.ServicePort {
	t.Helper()
	numbers, protocol, _ := strings.Cut(text, "/")
	outer, target, translated := strings.Cut(numbers, ":")
	if !translated {
		target = outer
	}
	port, err := strconv.ParseUint(outer, 10, 16)
	targetPort, targetErr := strconv.ParseUint(target, 10, 16)
	if err := errors.Join(err, targetErr); err != nil {
		t.Fatalf("port %q: %v", text, err)
	}
	return corev1.ServicePort{
		Name: strings.ToLower(protocol) + "-" + outer, Port: int32(port), Protocol: corev1.Protocol(protocol), TargetPort: intstr.FromInt32(int32(targetPort)),
	}
}

func document(t *testing.T, object any) string {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// mapping returns a Mapping in endpoints mode to a Service, with the rest of its spec in YAML's flow style: "addresses: [...], ports: [...]".
func mapping(name, service, spec string) string {
	return fmt.Sprintf(`apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: %s, namespace: default}
spec: {serviceName: %s, mode: endpoints, %s}`, name, service, spec)
}

// emulated is set on a machine that another one emulates, many times slower than itself (scripts/kernels).
const emulated = "SMARTNAT_LAB_EMULATED"

// timeout returns a context that ends with the test, or after the limit.
func timeout(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	if os.Getenv(emulated) != "" {
		limit *= 4
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

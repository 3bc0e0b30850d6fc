// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pod describes a pod to create.
type Pod struct {
	Namespace string // "default" if empty
	Name      string
	Node      string // Node1 if empty
	Labels    map[string]string
	Ports     []uint16        // answers by TCP, HTTP and UDP; 8080 if empty
	Template  *corev1.PodSpec // of the object, instead of one with the Ports
}

// nodeState is what a node's kubelet and network plugin would know.
type nodeState struct {
	name      string
	addresses [2]string // IPv4, IPv6
	pods      [2]netip.Prefix
	used      map[netip.Addr]bool // IPv4; a pod's IPv6 address has the same ending
}

func newNode(name, address, address6, pods, pods6 string) *nodeState {
	return &nodeState{
		name: name, addresses: [2]string{address, address6},
		pods: [2]netip.Prefix{netip.MustParsePrefix(pods), netip.MustParsePrefix(pods6)}, used: map[netip.Addr]bool{},
	}
}

// podState is a running pod.
type podState struct {
	pod  Pod
	node *nodeState
	host *Host
	ips  [2]netip.Addr // IPv4, IPv6
	echo *echoServer
}

// cable returns the name of the pod's link on its node.
func (p *podState) cable() string { return fmt.Sprintf("pod%d", p.ips[0].As4()[3]) }

func (p Pod) withDefaults() Pod {
	if p.Namespace == "" {
		p.Namespace = metav1.NamespaceDefault
	}
	if p.Node == "" {
		p.Node = Node1
	}
	if len(p.Ports) == 0 {
		p.Ports = []uint16{8080}
	}
	return p
}

func (p Pod) hostName() string { return p.Name + "." + p.Namespace }

// PodHost returns the host of a pod, or nil.
func (l *Lab) PodHost(namespace, name string) *Host {
	return l.Host(Pod{Namespace: namespace, Name: name}.withDefaults().hostName())
}

// AddPod creates a pod with its network and echo server. If the lab has an API server, AddPod creates the object and marks it
// as running and ready. It returns the pod's IPv4 address.
func (l *Lab) AddPod(ctx context.Context, pod Pod) (netip.Addr, error) {
	pod = pod.withDefaults()
	node, ok := l.nodes[pod.Node]
	if !ok {
		return netip.Addr{}, fmt.Errorf("pod %s: no node %s", pod.Name, pod.Node)
	}
	if l.kube != nil {
		if err := l.createPod(ctx, pod); err != nil {
			return netip.Addr{}, err
		}
	}
	state, err := l.runPod(pod, node)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("pod %s: %w", pod.hostName(), err)
	}
	if l.kube == nil {
		return state.ips[0], nil
	}
	return state.ips[0], l.setPodStatus(ctx, state, true)
}

// createPod creates the Pod object. It retries while the API server rejects it because the namespace's service account does
// not exist yet.
func (l *Lab) createPod(ctx context.Context, pod Pod) error {
	seconds := int64(30)
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels},
		Spec: corev1.PodSpec{
			NodeName: pod.Node, TerminationGracePeriodSeconds: &seconds,
			Containers: []corev1.Container{{Name: "echo", Image: "lab/echo"}},
		},
	}
	for _, port := range pod.Ports {
		container := &object.Spec.Containers[0]
		container.Ports = append(container.Ports,
			corev1.ContainerPort{Name: fmt.Sprintf("tcp-%d", port), ContainerPort: int32(port), Protocol: corev1.ProtocolTCP},
			corev1.ContainerPort{Name: fmt.Sprintf("udp-%d", port), ContainerPort: int32(port), Protocol: corev1.ProtocolUDP})
	}
	if pod.Template != nil {
		object.Spec = *pod.Template.DeepCopy()
		object.Spec.NodeName = pod.Node
	}
	var refused error
	err := Poll(ctx, func(ctx context.Context) error {
		_, err := l.kube.CoreV1().Pods(pod.Namespace).Create(ctx, object, metav1.CreateOptions{})
		if err != nil && !apierrors.IsForbidden(err) {
			refused = err
			return nil
		}
		return err
	})
	if err := errors.Join(err, refused); err != nil {
		return fmt.Errorf("creating pod %s: %w", pod.hostName(), err)
	}
	return nil
}

// runPod does the work of a kubelet and its network plugin.
func (l *Lab) runPod(pod Pod, node *nodeState) (*podState, error) {
	host, err := l.addHost(pod.hostName())
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	state := &podState{pod: pod, node: node, host: host, ips: node.takeAddresses()}
	l.pods[pod.hostName()] = state
	l.mu.Unlock()
	if err := connectPod(l.Host(node.name), host, state.cable(), state.ips); err != nil {
		return nil, err
	}
	state.echo, err = startEcho(pod.Name, host, pod.Ports)
	return state, err
}

// takeAddresses allocates the first free pair of addresses with the same ending.
func (n *nodeState) takeAddresses() [2]netip.Addr {
	ip := n.pods[0].Addr().Next().Next() // .0 is the network, .1 the node
	for n.used[ip] {
		ip = ip.Next()
	}
	n.used[ip] = true
	ip6 := n.pods[1].Addr().As16()
	ip6[15] = ip.As4()[3]
	return [2]netip.Addr{ip, netip.AddrFrom16(ip6)}
}

// connectPod connects a node and a pod, with routes to the pod on the node and a default route in the pod.
func connectPod(node, pod *Host, name string, ips [2]netip.Addr) error {
	outside, err := netlink.NewHandleAt(node.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer outside.Close()
	inside, err := netlink.NewHandleAt(pod.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer inside.Close()
	// Skip duplicate address detection for link-local addresses too, see addAddress.
	if err := errors.Join(pod.SetSysctl("net.ipv6.conf.all.accept_dad", "0"), pod.SetSysctl("net.ipv6.conf.default.accept_dad", "0")); err != nil {
		return err
	}
	octets := ips[0].As4()
	gateways := [2]netip.Addr{netip.AddrFrom4([4]byte{octets[0], octets[1], octets[2], 1}), netip.MustParseAddr("fe80::1")}
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.ns),
	}
	if err := errors.Join(outside.LinkAdd(cable), outside.LinkSetUp(cable), linkUp(inside, "lo"), linkUp(inside, "eth0")); err != nil {
		return fmt.Errorf("cable: %w", err)
	}
	for family, ip := range ips {
		if err := connectFamily(outside, inside, cable, ip, gateways[family]); err != nil {
			return fmt.Errorf("%s: %w", ip, err)
		}
	}
	return nil
}

// connectFamily sets the addresses and routes of both ends of a pod's cable.
func connectFamily(outside, inside *netlink.Handle, cable netlink.Link, ip, gateway netip.Addr) error {
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	whole := func(ip netip.Addr) string { return netip.PrefixFrom(ip, ip.BitLen()).String() }
	if err := errors.Join(addAddress(outside, cable.Attrs().Name, whole(gateway)), addAddress(inside, "eth0", whole(ip))); err != nil {
		return err
	}
	route := func(ip netip.Addr, link netlink.Link) *netlink.Route {
		dst, _ := netlink.ParseIPNet(whole(ip)) // always valid
		return &netlink.Route{Dst: dst, Scope: netlink.SCOPE_LINK, LinkIndex: link.Attrs().Index}
	}
	if err := errors.Join(outside.RouteAdd(route(ip, cable)), inside.RouteAdd(route(gateway, eth0))); err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	return inside.RouteAdd(&netlink.Route{Gw: gateway.AsSlice(), LinkIndex: eth0.Attrs().Index})
}

// setPodStatus writes the status as a kubelet would.
func (l *Lab) setPodStatus(ctx context.Context, p *podState, ready bool) error {
	condition := corev1.ConditionFalse
	if ready {
		condition = corev1.ConditionTrue
	}
	pods := l.kube.CoreV1().Pods(p.pod.Namespace)
	object, err := pods.Get(ctx, p.pod.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading pod %s: %w", p.pod.hostName(), err)
	}
	object.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: p.node.addresses[0], HostIPs: []corev1.HostIP{{IP: p.node.addresses[0]}, {IP: p.node.addresses[1]}},
		PodIP: p.ips[0].String(), PodIPs: []corev1.PodIP{{IP: p.ips[0].String()}, {IP: p.ips[1].String()}},
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
			{Type: corev1.ContainersReady, Status: condition},
			{Type: corev1.PodReady, Status: condition},
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: object.Spec.Containers[0].Name, Image: object.Spec.Containers[0].Image, Ready: ready,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		}},
	}
	if _, err := pods.UpdateStatus(ctx, object, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("writing the status of pod %s: %w", p.pod.hostName(), err)
	}
	return nil
}

func (l *Lab) pod(namespace, name string) (*podState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := Pod{Namespace: namespace, Name: name}.withDefaults().hostName()
	if p, ok := l.pods[key]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("no pod %s", key)
}

// SetReady sets a pod's readiness as its readiness probe would. The pod keeps answering.
func (l *Lab) SetReady(ctx context.Context, namespace, name string, ready bool) error {
	p, err := l.pod(namespace, name)
	if err != nil {
		return err
	}
	return l.setPodStatus(ctx, p, ready)
}

// TerminatePod starts the graceful termination of a pod. It keeps answering until RemovePod.
func (l *Lab) TerminatePod(ctx context.Context, namespace, name string) error {
	p, err := l.pod(namespace, name)
	if err != nil {
		return err
	}
	return l.kube.CoreV1().Pods(p.pod.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// RemovePod deletes a pod immediately: the object and its network.
func (l *Lab) RemovePod(ctx context.Context, namespace, name string) error {
	p, err := l.pod(namespace, name)
	if err != nil {
		return err
	}
	options := metav1.NewDeleteOptions(0)
	err = l.kube.CoreV1().Pods(p.pod.Namespace).Delete(ctx, name, *options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting pod %s: %w", p.pod.hostName(), err)
	}
	return l.stopPod(p)
}

// stopPod removes a pod's network.
func (l *Lab) stopPod(p *podState) error {
	if p.echo != nil {
		_ = p.echo.Close()
	}
	// The kernel would remove the link with the pod's namespace, but with a delay, and the next pod may need the name.
	err := l.Host(p.node.name).unlink(p.cable())
	l.mu.Lock()
	delete(l.pods, p.pod.hostName())
	delete(p.node.used, p.ips[0])
	l.mu.Unlock()
	return errors.Join(err, l.removeHost(p.pod.hostName()))
}

// Container creates a host behind another one, as a container engine unknown to Kubernetes would. It answers on port 80 at
// the end of a link of that host.
func (l *Lab) Container(behind, name, link, ip, ip6 string) error {
	host, err := l.addHost(name)
	if err != nil {
		return err
	}
	if err := connectPod(l.Host(behind), host, link, [2]netip.Addr{netip.MustParseAddr(ip), netip.MustParseAddr(ip6)}); err != nil {
		return fmt.Errorf("container %s: %w", name, err)
	}
	_, err = host.Serve(80) // ends with the lab's process
	return err
}

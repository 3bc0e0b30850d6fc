// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/scripts/lab"
)

// exitKey makes the demo exit at once instead of waiting for Enter.
const exitKey = "DEMO_EXIT"

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show SmartNat at work, from `kubectl apply` to packets",
		Long:  "Show SmartNat at work, from `kubectl apply` to packets. It waits for Enter before it exits, except with " + exitKey + "=1.",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return inside(runDemo) },
	}
}

const echoService = `apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports:
  - {name: tcp, port: 8080, protocol: TCP}
  - {name: udp, port: 8080, protocol: UDP}
`

const echoMapping = `apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: echo}
spec:
  addresses: [198.51.100.10, 203.0.113.10]   # the gateway's, one on each uplink
  allowedSources: [192.0.2.10/32]            # only the client gets an answer
  serviceName: echo
  ports:
  - port: 8080
  - {port: 8081, servicePort: 8080, protocol: udp}
`

// demo runs and prints the steps.
type demo struct {
	lab     *lab.Lab
	started time.Time
	steps   int
}

func runDemo(ctx context.Context, control *controlSocket) error {
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	d := &demo{started: time.Now()}
	for _, step := range []func(context.Context) error{
		d.controlPlane, d.kinds, d.service, d.gateway, d.mapping, d.reach, d.refuse, d.look,
	} {
		if err := step(limit); err != nil {
			if d.lab != nil {
				fmt.Fprintln(os.Stderr, d.lab.Logs())
			}
			return err
		}
	}
	if err := control.listen(); err != nil {
		return err
	}
	fmt.Printf("\nDone in %.1f s.\n", time.Since(d.started).Seconds())
	if os.Getenv(exitKey) != "" {
		return nil
	}
	fmt.Printf("\nThe lab stays up. Look around from another terminal, for example:\n\n" +
		"  go run ./scripts/lab/cmd/lab shell client curl -s http://198.51.100.10:8080/\n" +
		"  go run ./scripts/lab/cmd/lab shell gateway\n\nPress Enter to end it.\n")
	return waitForEnter(ctx)
}

func waitForEnter(ctx context.Context) error {
	entered := make(chan struct{})
	go func() {
		defer close(entered)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // end of input also ends the demo
	}()
	select {
	case <-entered:
	case <-ctx.Done():
	}
	return nil
}

// step prints the title of the next step.
func (d *demo) step(title string) {
	d.steps++
	fmt.Printf("\n%d. %s  [%.1f s]\n", d.steps, title, time.Since(d.started).Seconds())
}

// show prints text as part of the step.
func show(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		fmt.Print("     " + line)
	}
}

// command prints a command and its output.
func command(host, line, output string) {
	fmt.Printf("   %s# %s\n", host, line)
	show(output)
}

func (d *demo) controlPlane(ctx context.Context) (err error) {
	d.step("Network namespaces with a Kubernetes cluster")
	if d.lab, err = lab.Start(ctx); err != nil {
		return err
	}
	if err := addPods(ctx, d.lab); err != nil {
		return err
	}
	show("etcd, kube-apiserver and kube-controller-manager run on the host control, kube-proxy on node1 and node2.")
	return d.kubectl(ctx, "get", "pods", "--output=custom-columns=POD:.metadata.name,NODE:.spec.nodeName,IP:.status.podIP")
}

// kubectl runs kubectl and prints the command and its output.
func (d *demo) kubectl(ctx context.Context, args ...string) error {
	output, err := d.lab.Kubectl(ctx, args...)
	command(lab.Control, "kubectl "+strings.Join(args, " "), output)
	return err
}

// apply applies YAML and prints it with the output.
func (d *demo) apply(ctx context.Context, yaml string) error {
	output, err := d.lab.KubectlApply(ctx, yaml)
	command(lab.Control, "kubectl apply -f - <<END", yaml+"END\n"+output)
	return err
}

func (d *demo) kinds(ctx context.Context) error {
	d.step("The Mapping CRD, and smartnat-relay with its ServiceAccount and rights")
	if err := d.lab.ApplyCRDs(ctx); err != nil {
		return err
	}
	command(lab.Control, "kubectl apply --server-side -f apis/crds", "established")
	output, err := d.lab.ApplyRelay(ctx)
	command(lab.Control, "kubectl apply -k relay/manifests", output)
	if err != nil {
		return err
	}
	relay, err := d.lab.StartRelay(ctx)
	if err != nil {
		return err
	}
	command(lab.Node1, relay.CommandLine(), "ready: serves Mappings and the objects that they refer to at https://10.10.0.11:8443")
	return nil
}

func (d *demo) service(ctx context.Context) error {
	d.step("A Service of three pods, not reachable from outside")
	return d.apply(ctx, echoService)
}

func (d *demo) gateway(ctx context.Context) error {
	d.step("smartnatd on the gateway, with a token that is valid only for the relay")
	if err := d.lab.GrantGateway(ctx); err != nil {
		return err
	}
	command(lab.Gateway, "cat /etc/smartnat.yaml", lab.GatewayConfig)
	daemon, err := d.lab.StartGateway(ctx, lab.GatewayConfig)
	if err != nil {
		return err
	}
	command(lab.Gateway, daemon.CommandLine(), "ready")
	return nil
}

func (d *demo) mapping(ctx context.Context) error {
	d.step("A Mapping of external addresses and ports to that Service")
	if err := d.apply(ctx, echoMapping); err != nil {
		return err
	}
	applied := time.Now()
	client := d.lab.Host(lab.Client)
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := client.EchoTCP(try, lab.Join(lab.External1, 8080))
		return err
	}); err != nil {
		return fmt.Errorf("the Mapping did not take effect: %w", err)
	}
	show(fmt.Sprintf("In effect after %.1f s.", time.Since(applied).Seconds()))
	return nil
}

// reach connects to the Service from outside through both uplinks.
func (d *demo) reach(ctx context.Context) error {
	d.step("A client outside the cluster, 192.0.2.10, reaches the Service through both uplinks")
	client := d.lab.Host(lab.Client)
	for _, path := range [][2]string{{"eth1", lab.External1}, {"eth2", lab.External2}} {
		uplink, address := path[0], path[1]
		capture, err := d.lab.Host(lab.Gateway).Capture(uplink)
		if err != nil {
			return err
		}
		http, err := client.HTTPGet(ctx, "http://"+lab.Join(address, 8080)+"/hello")
		if err != nil {
			return err
		}
		answered(fmt.Sprintf("HTTP  http://%s:8080/hello", address), http)
		udp, err := client.EchoUDP(ctx, lab.Join(address, 8081))
		if err != nil {
			return err
		}
		answered(fmt.Sprintf("UDP   %s:8081", address), udp)
		packets, err := capture.Packets()
		if err != nil {
			return err
		}
		in, out := 0, 0
		for _, packet := range packets {
			if packet.Out {
				out++
			} else {
				in++
			}
		}
		show(fmt.Sprintf("%-38s %d packets in through %s, %d out", "", in, uplink, out))
		if err := capture.Close(); err != nil {
			return err
		}
	}
	return nil
}

func answered(what string, answer lab.Answer) {
	show(fmt.Sprintf("%-38s answered by %s, which saw %s", what, answer.Pod, answer.Client.Addr()))
}

func (d *demo) refuse(ctx context.Context) error {
	d.step("Another client, 192.0.2.20, is not in allowedSources and gets no answer")
	try, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := d.lab.Host(lab.Client2).EchoTCP(try, lab.Join(lab.External1, 8080))
	if err == nil {
		return fmt.Errorf("%s answered a client that is not allowed", answer.Pod)
	}
	show(err.Error())
	return nil
}

// look prints the state of the kernel and the API.
func (d *demo) look(ctx context.Context) error {
	d.step("The rules for a packet to 198.51.100.10 on the gateway, and the routing of replies")
	gateway := d.lab.Host(lab.Gateway)
	nat, err := gateway.Exec(ctx, "iptables-save", "-t", "nat")
	if err != nil {
		return err
	}
	var rules strings.Builder
	for line := range strings.Lines(nat) {
		if strings.HasPrefix(line, "-A") && !strings.Contains(line, "CB00710A") && !strings.Contains(line, lab.External2) {
			rules.WriteString(line)
		}
	}
	command(lab.Gateway, "iptables-save -t nat | grep -e ^-A  (of 198.51.100.10)", rules.String())
	for _, line := range []string{"ip rule", "ip route show table all proto 83"} {
		output, err := gateway.Exec(ctx, strings.Fields(line)...)
		if err != nil {
			return err
		}
		command(lab.Gateway, line, output)
	}
	if err := d.kubectl(ctx, "wait", "--for=condition=Ready", "mapping/echo", "--timeout=30s"); err != nil {
		return err
	}
	return d.kubectl(ctx, "get", "mappings")
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/smartnat/smartnat/pkg/testenv"
)

const (
	dir      = "/run/demo" // in the memory of the namespaces
	frontend = "198.51.100.10:8080"

	smartnatConfig = `source: {files: {paths: [` + dir + `/objects.yaml]}}
uplinks: [{interface: eth1}]
stateDir: ` + dir + `
`
	objects = `apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: echo, namespace: default}
spec:
  addresses: [198.51.100.10]             # of the gateway's uplink, eth1
  allowedSources: [198.51.100.20/32]     # the client
  mode: endpoints
  serviceName: echo
  ports: [{port: 8080, servicePort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  clusterIP: None
  selector: {app: echo}
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-1, namespace: default, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: http, port: 80, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.2], conditions: {ready: true}, targetRef: {kind: Pod, name: pod-1, namespace: default}}
- {addresses: [10.244.1.3], conditions: {ready: true}, targetRef: {kind: Pod, name: pod-2, namespace: default}}
`
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo SMARTNATD")
		os.Exit(2)
	}
	status, err := testenv.Run(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := demo(ctx, os.Args[1]); err != nil {
			fmt.Fprintf(os.Stderr, "demo: %v\n", err)
			return 1
		}
		return 0
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
	}
	os.Exit(status)
}

// demo maps two pods to the gateway's external address and reaches them.
func demo(ctx context.Context, smartnatd string) error {
	started := time.Now()
	fmt.Println("A client, a gateway and two pods, in network namespaces of their own.")
	if err := build(ctx); err != nil {
		return err
	}
	for _, pod := range []string{"pod-1", "pod-2"} {
		if err := serve(pod); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{"objects.yaml": objects, "smartnat.yaml": smartnatConfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	mapping, _, _ := strings.Cut(objects, "---")
	show("A Mapping in a file:", mapping)
	show("gateway# smartnatd --config smartnat.yaml, with:", smartnatConfig)
	stop, err := start(ctx, smartnatd)
	if err != nil {
		return err
	}
	defer stop()
	if err := reach(ctx, started); err != nil {
		return err
	}
	rules, err := run(ctx, "ip", "netns", "exec", "gateway", "iptables-save", "-t", "nat")
	if err != nil {
		return err
	}
	var ours strings.Builder
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "-A") {
			ours.WriteString(line)
		}
	}
	show("gateway# iptables-save -t nat", ours.String())
	return nil
}

func show(title, text string) {
	fmt.Printf("\n%s\n", title)
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		fmt.Print("     " + line)
	}
}

// serve answers HTTP on port 80 of a pod, with its name and the address that it sees.
func serve(pod string) error {
	return testenv.InNetNS(pod, func() error {
		listener, err := net.Listen("tcp4", ":80")
		if err != nil {
			return err
		}
		server := &http.Server{
			ReadHeaderTimeout: time.Minute,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s, asked by %s", pod, r.RemoteAddr)
			}),
		}
		go func() { _ = server.Serve(listener) }()
		return nil
	})
}

// start runs smartnatd on the gateway until stop, and returns once it has programmed the Mapping.
func start(ctx context.Context, smartnatd string) (stop func(), err error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	daemon := exec.CommandContext(ctx, "ip", "netns", "exec", "gateway", smartnatd, "--config", filepath.Join(dir, "smartnat.yaml"))
	daemon.Stdout, daemon.Stderr = log, log
	daemon.Cancel = func() error { return daemon.Process.Signal(syscall.SIGTERM) }
	if err := daemon.Start(); err != nil {
		return nil, err
	}
	var status error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		status = daemon.Wait()
	}()
	stop = func() {
		_ = daemon.Cancel()
		<-ended
	}
	for {
		_, err := get(ctx, "198.51.100.20")
		if err == nil {
			return stop, nil
		}
		// A refused attempt returns at once.
		select {
		case <-ended:
			text, readErr := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("smartnatd ended: %w: %s", status, text), readErr)
		case <-ctx.Done():
			stop()
			text, readErr := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("the Mapping does not come into effect: %w: %s", err, text), readErr)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// get asks the frontend once, from a source address of the client.
func get(ctx context.Context, source string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+frontend+"/", nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dialer("client", source), DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// reach shows an answer from each pod, and none for a source that is not allowed.
func reach(ctx context.Context, started time.Time) error {
	fmt.Printf("\nclient# curl http://%s/\n", frontend)
	for seen := map[string]bool{}; len(seen) < 2; {
		answer, err := get(ctx, "198.51.100.20")
		if err != nil {
			return err
		}
		if pod, _, _ := strings.Cut(answer, ","); !seen[pod] {
			seen[pod] = true
			fmt.Printf("     answered by %s\n", answer)
		}
	}
	fmt.Printf("     (packets flow after %.1f s)\n", time.Since(started).Seconds())
	switch answer, err := get(ctx, "198.51.100.30"); {
	case err == nil:
		return fmt.Errorf("%s answered a source that is not allowed", answer)
	case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("a source that is not allowed got something else than silence: %w", err)
	}
	fmt.Printf("\nclient# curl --interface 198.51.100.30 http://%s/    (not in allowedSources)\n     no answer\n", frontend)
	return nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/scripts/browser"
	"github.com/smartnat/smartnat/scripts/lab"
)

// trafficFor fills the lines of the page.
const trafficFor = 3 * time.Minute

const picturesConfig = "instance: gateway-1\ndataplane: nftables\n" + lab.DualStackConfig

func picturesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pictures FOLDER",
		Short: "Take the pictures of the page for the documents: a real smartnatd under traffic, in Chromium",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			folder, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return inside(func(ctx context.Context, _ *controlSocket) error { return pictures(ctx, folder) })
		},
	}
}

// exposed is a Mapping of the pictures and the traffic that it gets.
type exposed struct {
	namespace, name, address, protocol string
	port                               int
	// allowed is the only source that may connect, if set.
	allowed string
	// pods is the number of its endpoints.
	pods int
	// pause is the time between two connections, or 0 for none.
	pause time.Duration
}

func allExposed() []exposed {
	return []exposed{
		{"shop", "web", lab.External1, "tcp", 443, "", 2, 40 * time.Millisecond},
		{"shop", "db", lab.External1, "tcp", 5432, lab.ClientAddress, 1, 200 * time.Millisecond},
		{"game", "lobby", lab.External2, "udp", 7000, "", 1, 30 * time.Millisecond},
		{"dns", "resolver", lab.External2, "udp", 53, "", 2, 70 * time.Millisecond},
		{"mail", "smtp", lab.External1, "tcp", 25, "", 1, 500 * time.Millisecond},
		{"ci", "ssh", lab.External2, "tcp", 2222, "", 1, time.Second},
		{"log", "syslog", lab.External1, "tcp", 601, "", 0, 0},
		{"media", "stream", "203.0.113.99", "tcp", 8000, "", 1, 0},
	}
}

// objects returns a Mapping and its Service in their namespace.
func (e exposed) objects() string {
	sources := ""
	if e.allowed != "" {
		sources = "  allowedSources: [" + e.allowed + "/32]\n"
	}
	meta := fmt.Sprintf("{namespace: %s, name: %s}", e.namespace, e.name)
	return fmt.Sprintf("---\napiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: %s\nspec:\n  addresses: [%s]\n%s  serviceName: %s\n"+
		"  mode: endpoints\n  ports: [{port: %d, protocol: %s}]\n", meta, e.address, sources, e.name, e.port, e.protocol) +
		fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: %s\nspec:\n  selector: {app: %s}\n  ports: [{port: %d, targetPort: 8080, protocol: %s}]\n",
			meta, e.name, e.port, strings.ToUpper(e.protocol))
}

func pictures(ctx context.Context, folder string) error {
	if browser.Program() == "" {
		return errors.New("chromium is not installed: scripts/setup.sh test")
	}
	l, err := lab.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = l.Stop() }()
	if _, err := l.StartRelay(ctx); err != nil {
		return err
	}
	if err := l.GrantGateway(ctx); err != nil {
		return err
	}
	for _, e := range allExposed() {
		if _, err := l.KubectlApply(ctx, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", e.namespace)+e.objects()); err != nil {
			return err
		}
		for i := range e.pods {
			pod := lab.Pod{Namespace: e.namespace, Name: fmt.Sprintf("%s-%d", e.name, i), Node: []string{lab.Node1, lab.Node2}[i], Labels: map[string]string{"app": e.name}}
			if _, err := l.AddPod(ctx, pod); err != nil {
				return err
			}
		}
	}
	daemon, err := l.StartGateway(ctx, picturesConfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, e := range allExposed() {
		if e.pause > 0 {
			go connect(ctx, l, e)
		}
	}
	if err := photograph(ctx, folder); err != nil {
		return fmt.Errorf("%w\n%s", err, daemon.Log())
	}
	return nil
}

// connect keeps connecting, more often every other half minute. A client that is not allowed tries, too.
func connect(ctx context.Context, l *lab.Lab, e exposed) {
	target := lab.Join(e.address, uint16(e.port))
	for begun := time.Now(); ctx.Err() == nil; {
		try, cancel := context.WithTimeout(ctx, time.Second)
		if e.protocol == "udp" {
			_, _ = l.Host(lab.Client).EchoUDP(try, target)
		} else {
			_, _ = l.Host(lab.Client).EchoTCP(try, target)
		}
		if e.allowed != "" {
			_, _ = l.Host(lab.Client2).EchoTCP(try, target)
		}
		cancel()
		pause := e.pause
		if int(time.Since(begun).Seconds())/30%2 == 1 {
			pause *= 3
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// photograph lets the page run while there is traffic, and then takes its picture in two widths, light and dark.
func photograph(ctx context.Context, folder string) (err error) {
	profile, err := os.MkdirTemp("", "pictures")
	if err != nil {
		return err
	}
	defer os.RemoveAll(profile)
	tab, err := browser.Start(profile, "ip", "netns", "exec", lab.Gateway)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tab.Close()) }()
	if err := tab.Open("http://127.0.0.1:9470/", 1280, "light"); err != nil {
		return err
	}
	if err := tab.Await(fmt.Sprintf("document.querySelectorAll('#rows tr').length == %d", len(allExposed()))); err != nil {
		return err
	}
	fmt.Printf("traffic for %s\n", trafficFor)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(trafficFor):
	}
	question := errors.Join(tab.Fill("source-input", lab.Client2Address), tab.Fill("destination-input", lab.External1+":5432"))
	if _, err := browser.Evaluate[bool](tab, `document.querySelector("#explain button").click() ?? true`); err != nil || question != nil {
		return errors.Join(question, err)
	}
	if err := tab.Await(`document.querySelector("#answer .sentence")?.textContent.includes("does not allow this source")`); err != nil {
		return err
	}
	for name, width := range map[string]int{"desktop": 1280, "telephone": 390} {
		for _, scheme := range []string{"light", "dark"} {
			if err := tab.Show(width, scheme); err != nil {
				return err
			}
			picture, err := tab.Screenshot("webp")
			if err != nil {
				return err
			}
			file := filepath.Join(folder, fmt.Sprintf("page-%s-%s.webp", name, scheme))
			if err := os.WriteFile(file, picture, 0o644); err != nil {
				return err
			}
			fmt.Println(file)
		}
	}
	return nil
}

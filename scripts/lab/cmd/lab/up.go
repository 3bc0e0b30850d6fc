// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

func upCommand() *cobra.Command {
	var bare bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab with three pods, relay and smartnatd, until Ctrl-C or `lab down`",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return inside(func(ctx context.Context, control *controlSocket) error { return up(ctx, control, bare) })
		},
	}
	cmd.Flags().BoolVar(&bare, "bare", false, "do not start relay and smartnatd")
	return cmd
}

// inside runs fn in the lab's namespaces, with a socket through which `shell` and `down` in other terminals find it.
func inside(fn func(ctx context.Context, control *controlSocket) error) error {
	if !testenv.Inside() {
		if err := bindControlSocket(); err != nil {
			return err
		}
	}
	status, err := lab.Run(func() int {
		// The terminal also sends Ctrl-C to the process outside. It exits, and the namespaces end with it.
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		control, err := inheritedControlSocket()
		if err == nil {
			err = fn(ctx, control)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(os.Stderr, "lab: %v\n", err)
			return 1
		}
		return 0
	})
	if err != nil {
		return err
	}
	os.Exit(status)
	return nil
}

func up(ctx context.Context, control *controlSocket, bare bool) error {
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	started := time.Now()
	l, err := lab.Start(limit)
	if err != nil {
		return err
	}
	if err := addPods(limit, l); err != nil {
		return err
	}
	if !bare {
		if err := startSmartNat(limit, l); err != nil {
			return err
		}
	}
	if err := control.listen(); err != nil {
		return err
	}
	fmt.Printf("The lab started in %.1f s. In another terminal:\n\n", time.Since(started).Seconds())
	fmt.Printf("  lab shell HOST    a shell on one of: %s\n", strings.Join(l.Hosts(), " "))
	fmt.Printf("  lab down          end the lab (or Ctrl-C here)\n\n")
	<-ctx.Done()
	return nil
}

// addPods creates three pods on two nodes.
func addPods(ctx context.Context, l *lab.Lab) error {
	for i, node := range []string{lab.Node1, lab.Node2, lab.Node2} {
		pod := lab.Pod{Name: fmt.Sprintf("echo-%d", i+1), Node: node, Labels: map[string]string{"app": "echo"}}
		if _, err := l.AddPod(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

// startSmartNat starts what the demo starts, without output.
func startSmartNat(ctx context.Context, l *lab.Lab) error {
	if _, err := l.StartRelay(ctx); err != nil {
		return err
	}
	if err := l.GrantGateway(ctx); err != nil {
		return err
	}
	_, err := l.StartGateway(ctx, lab.GatewayConfig)
	return err
}

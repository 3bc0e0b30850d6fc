// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// controlSocketKey passes the socket from the process outside, whose network namespace it belongs to, to the process inside.
const controlSocketKey = "SMARTNAT_LAB_CONTROL_SOCKET"

// controlSocket is the abstract Unix socket through which commands in other terminals find the lab: the kernel reports the PID
// of the listener. It needs no file and leaves none behind.
type controlSocket struct{ socket int }

func controlSocketAddress() *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("@smartnat-lab-%d", os.Getuid())}
}

// bindControlSocket binds the socket without listening. Each user can have only one lab.
func bindControlSocket() error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // inherited by the process inside
	if err != nil {
		return fmt.Errorf("binding the lab's socket: %w", err)
	}
	if err := unix.Bind(socket, controlSocketAddress()); errors.Is(err, unix.EADDRINUSE) {
		return errors.New("a lab is already running: end it with `lab down`")
	} else if err != nil {
		return fmt.Errorf("binding the lab's socket: %w", err)
	}
	return os.Setenv(controlSocketKey, strconv.Itoa(socket))
}

// inheritedControlSocket returns the inherited socket in the process inside.
func inheritedControlSocket() (*controlSocket, error) {
	socket, err := strconv.Atoi(os.Getenv(controlSocketKey))
	if err != nil {
		return nil, fmt.Errorf("finding the lab's socket: %w", err)
	}
	unix.CloseOnExec(socket) // not for the processes of hosts
	return &controlSocket{socket}, nil
}

// listen starts listening, so that commands find this process.
func (c *controlSocket) listen() error {
	if err := unix.Listen(c.socket, 16); err != nil {
		return fmt.Errorf("listening on the lab's socket: %w", err)
	}
	go func() {
		for {
			client, _, err := unix.Accept(c.socket)
			if err != nil {
				return
			}
			_ = unix.Close(client)
		}
	}()
	return nil
}

// labProcess returns the PID, in the outer namespace, of the process inside the lab.
func labProcess() (int, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(socket) }()
	if err := unix.Connect(socket, controlSocketAddress()); err != nil {
		return 0, fmt.Errorf("no lab is running (start one with `lab up`): %w", err)
	}
	who, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("reading the PID of the lab: %w", err)
	}
	return int(who.Pid), nil
}

// unbound returns an error while a lab owns the socket.
func unbound() error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	return unix.Bind(socket, controlSocketAddress())
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pid, err := labProcess()
			if err != nil {
				return err
			}
			// The process is the init of its PID namespace: the kernel kills all others with it.
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return fmt.Errorf("ending the lab: %w", err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			return lab.Poll(ctx, func(context.Context) error { return unbound() })
		},
	}
}

func shellCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell HOST [COMMAND...]",
		Short: "Open a shell on a host of the lab, or run a command there",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pid, err := labProcess()
			if err != nil {
				return err
			}
			command := args[1:]
			if len(command) == 0 {
				shell := os.Getenv("SHELL")
				if shell == "" {
					shell = "/bin/sh"
				}
				command = []string{shell}
			}
			return enter(pid, args[0], command)
		},
	}
	cmd.Flags().SetInterspersed(false) // flags after HOST belong to the command
	return cmd
}

// enter executes nsenter(1) twice: into the lab, and there into the host.
func enter(pid int, host string, command []string) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	argv := []string{nsenter, "--target", strconv.Itoa(pid), "--mount", "--pid", "--net"}
	if os.Getuid() != 0 {
		argv = append(argv, "--user", "--preserve-credentials")
	}
	// Arguments: the host's enter file, its name, and the command.
	script := `[ -r "$1" ] || { echo "lab: no host $2; hosts:" $(ls /run/netns) >&2; exit 1; }
. "$1"
export PATH HOST="$2" PS1="$2# "
shift 2
exec nsenter --mount="$namespaces/mnt" --net="$namespaces/net" --wd=/ -- "$@"`
	argv = append(argv, "--", "/bin/sh", "-c", script, "lab", lab.EnterFile(host), host)
	return unix.Exec(nsenter, append(argv, command...), append(os.Environ(), "KUBECONFIG="+lab.AdminKubeconfig))
}

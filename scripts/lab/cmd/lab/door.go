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

// doorKey hands the door from the process outside, in whose network namespace it stands, to the one inside.
const doorKey = "SMARTNAT_LAB_DOOR"

// door is how commands in other terminals find the lab: a socket in the kernel's memory, of which the kernel tells the
// process that listens at it. No file has to be written, and none can be left behind.
type door struct{ socket int }

func doorAddress() *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("@smartnat-lab-%d", os.Getuid())}
}

// buildDoor makes a closed door, which only one lab of a user can have.
func buildDoor() error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // inherited by the process inside
	if err != nil {
		return fmt.Errorf("making the lab's door: %w", err)
	}
	if err := unix.Bind(socket, doorAddress()); errors.Is(err, unix.EADDRINUSE) {
		return errors.New("a lab is up already: `lab down` ends it")
	} else if err != nil {
		return fmt.Errorf("making the lab's door: %w", err)
	}
	return os.Setenv(doorKey, strconv.Itoa(socket))
}

// findDoor is buildDoor's other side.
func findDoor() (*door, error) {
	socket, err := strconv.Atoi(os.Getenv(doorKey))
	if err != nil {
		return nil, fmt.Errorf("finding the lab's door: %w", err)
	}
	unix.CloseOnExec(socket) // it is not for the hosts' processes
	return &door{socket}, nil
}

// open lets commands find this process.
func (d *door) open() error {
	if err := unix.Listen(d.socket, 16); err != nil {
		return fmt.Errorf("opening the lab's door: %w", err)
	}
	go func() {
		for {
			visitor, _, err := unix.Accept(d.socket)
			if err != nil {
				return
			}
			_ = unix.Close(visitor)
		}
	}()
	return nil
}

// labProcess is the process inside the lab's namespaces, by the number that it has outside.
func labProcess() (int, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(socket) }()
	if err := unix.Connect(socket, doorAddress()); err != nil {
		return 0, fmt.Errorf("no lab is up (`lab up` brings one up): %w", err)
	}
	who, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("asking who is at the lab's door: %w", err)
	}
	return int(who.Pid), nil
}

// unbound is an error while a lab holds the door, open or not.
func unbound() error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	return unix.Bind(socket, doorAddress())
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
			// It is the first process of its PID namespace: the kernel ends all others with it.
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
	cmd.Flags().SetInterspersed(false) // what follows HOST is the command's
	return cmd
}

// enter becomes nsenter(1), twice: into the lab, and there into the host.
func enter(pid int, host string, command []string) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	argv := []string{nsenter, "--target", strconv.Itoa(pid), "--mount", "--pid", "--net"}
	if os.Getuid() != 0 {
		argv = append(argv, "--user", "--preserve-credentials")
	}
	// The first argument is the host's file, the second its name, and the rest is to be run there.
	script := `[ -r "$1" ] || { echo "lab: no host $2; there are:" $(ls /run/netns) >&2; exit 1; }
. "$1"
export PATH HOST="$2" PS1="$2# "
shift 2
exec nsenter --mount="$namespaces/mnt" --net="$namespaces/net" --wd=/ -- "$@"`
	argv = append(argv, "--", "/bin/sh", "-c", script, "lab", lab.EnterFile(host), host)
	return unix.Exec(nsenter, append(argv, command...), append(os.Environ(), "KUBECONFIG="+lab.AdminKubeconfig))
}

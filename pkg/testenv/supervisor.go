// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package testenv

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Supervisor acts as systemd for a service with Type=notify across restarts: it receives the service's notifications
// (sd_notify(3)), keeps the file descriptors that the service stores, and passes them to its next process (sd_listen_fds(3)).
type Supervisor struct {
	// Socket is the path for NOTIFY_SOCKET.
	Socket string

	conn          *net.UnixConn
	mu            sync.Mutex
	notifications []string
	// started is the length of notifications when the current process started.
	started int
	kept    []*os.File // with the names that the service gave
}

// NewSupervisor listens on a new Unix socket at path.
func NewSupervisor(path string) (*Supervisor, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listening for notifications of the service: %w", err)
	}
	s := &Supervisor{Socket: path, conn: conn}
	go s.listen()
	return s, nil
}

// Configure changes cmd, which must not be started yet, to run as the next process of the service.
func (s *Supervisor) Configure(cmd *exec.Cmd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = len(s.notifications)
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+s.Socket)
	if len(s.kept) == 0 {
		return
	}
	var names []string
	for _, file := range s.kept {
		names = append(names, file.Name())
	}
	cmd.ExtraFiles = s.kept // become descriptors 3 and up, as sd_listen_fds(3) requires
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	// LISTEN_PID must be the PID of the process, which only a shell in it knows before exec.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// Notifications returns all notifications in order, one element per line.
func (s *Supervisor) Notifications() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notifications)
}

// Ready reports whether the current process has sent READY=1.
func (s *Supervisor) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.notifications[s.started:], "READY=1")
}

// Stop closes the stored descriptors, as systemd does when a service stays stopped.
func (s *Supervisor) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forget(func(*os.File) bool { return true })
}

// Close stops listening and closes the stored descriptors.
func (s *Supervisor) Close() error { return errors.Join(s.conn.Close(), s.Stop()) }

func (s *Supervisor) listen() {
	message, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, rightsN, _, _, err := s.conn.ReadMsgUnix(message, rights)
		if err != nil {
			return
		}
		s.handle(strings.Split(string(message[:n]), "\n"), received(rights[:rightsN]))
	}
}

// handle records the words of one message, and stores or closes its descriptors.
func (s *Supervisor) handle(words []string, descriptors []int) {
	name := ""
	for _, word := range words {
		if named, ok := strings.CutPrefix(word, "FDNAME="); ok {
			name = named
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notifications = append(s.notifications, words...)
	for _, descriptor := range descriptors {
		file := os.NewFile(uintptr(descriptor), name)
		if slices.Contains(words, "FDSTORE=1") {
			s.kept = append(s.kept, file)
		} else {
			_ = file.Close()
		}
	}
	if slices.Contains(words, "FDSTOREREMOVE=1") {
		_ = s.forget(func(file *os.File) bool { return file.Name() == name })
	}
}

// forget closes and drops the selected descriptors.
func (s *Supervisor) forget(which func(*os.File) bool) error {
	var errs []error
	s.kept = slices.DeleteFunc(s.kept, func(file *os.File) bool {
		if !which(file) {
			return false
		}
		errs = append(errs, file.Close())
		return true
	})
	return errors.Join(errs...)
}

// received returns the descriptors in a control message.
func received(rights []byte) (descriptors []int) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for i := range messages {
		if some, err := unix.ParseUnixRights(&messages[i]); err == nil {
			descriptors = append(descriptors, some...)
		}
	}
	return descriptors
}

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

// Supervisor is what systemd is to a service of Type=notify, start after start: it hears what the service says (sd_notify(3)),
// keeps what it gives to be kept, and hands that to the next process of it (sd_listen_fds(3)).
type Supervisor struct {
	// Socket is the path that the service finds in NOTIFY_SOCKET.
	Socket string

	conn *net.UnixConn
	mu   sync.Mutex
	said []string
	// started is how much had been said when the youngest process started.
	started int
	kept    []*os.File // named as the service did
}

// NewSupervisor listens at a path that nothing is at yet.
func NewSupervisor(path string) (*Supervisor, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listening for a service's word: %w", err)
	}
	s := &Supervisor{Socket: path, conn: conn}
	go s.listen()
	return s, nil
}

// Prepare has a command that was not started yet start as the next process of the service.
func (s *Supervisor) Prepare(cmd *exec.Cmd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = len(s.said)
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+s.Socket)
	if len(s.kept) == 0 {
		return
	}
	var names []string
	for _, file := range s.kept {
		names = append(names, file.Name())
	}
	cmd.ExtraFiles = s.kept // from number 3 on, as sd_listen_fds(3) wants them
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	// Whom they are for is known only once there is a process.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// Said is all that was said, a word a line of it, in its order.
func (s *Supervisor) Said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.said)
}

// Ready tells whether the youngest process has said that it is.
func (s *Supervisor) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.said[s.started:], "READY=1")
}

// Stop is what comes after the end of a service that is to stay stopped: nothing is kept for it.
func (s *Supervisor) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forget(func(*os.File) bool { return true })
}

// Close ends listening, and keeping.
func (s *Supervisor) Close() error { return errors.Join(s.conn.Close(), s.Stop()) }

func (s *Supervisor) listen() {
	message, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, rightsN, _, _, err := s.conn.ReadMsgUnix(message, rights)
		if err != nil {
			return
		}
		s.hear(strings.Split(string(message[:n]), "\n"), received(rights[:rightsN]))
	}
}

func (s *Supervisor) hear(words []string, descriptors []int) {
	name := ""
	for _, word := range words {
		if named, ok := strings.CutPrefix(word, "FDNAME="); ok {
			name = named
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, words...)
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

// forget closes what is to go.
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

// received are the descriptors that came with a message.
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

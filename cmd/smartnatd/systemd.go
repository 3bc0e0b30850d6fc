// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// manager is the service manager: systemd, or none.
type manager struct {
	send func(state string)
	// watchdog is the longest silence that systemd allows; 0 without a watchdog.
	watchdog time.Duration

	mu sync.Mutex
	// status is the last status and note an addition to it; shown is the text that `systemctl status` has of both.
	status, note, shown string
	beat                time.Time
}

func newManager(log logrus.FieldLogger) *manager {
	m := &manager{send: func(state string) {
		if err := notify(state); err != nil {
			log.WithError(err).Warn("cannot notify systemd")
		}
	}}
	var err error
	if m.watchdog, err = systemd.SdWatchdogEnabled(false); err != nil {
		log.WithError(err).Warn("cannot read systemd's watchdog settings")
	}
	return m
}

// maxStatus is the longest text for `systemctl status`.
const maxStatus = 1000

// notifyPatience bounds the wait for room in systemd's socket.
const notifyPatience = 100 * time.Millisecond

// notify is sd_notify(3) with a timeout: a reader that does not read must not block the worker, nor the exit of smartnatd.
// rights are open files, passed as SCM_RIGHTS (unix(7)).
func notify(state string, rights ...byte) error {
	address := &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"}
	if address.Name == "" {
		return nil
	}
	conn, err := net.DialUnix(address.Net, nil, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyPatience)); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte(state), rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

// keep makes systemd hold a socket open until the service is stopped, and pass it to each next smartnatd process (sd_notify(3),
// FDSTORE). FDPOLL=0 keeps a socket with an error in the store: smartnatd handles the error.
func keep(name string, socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(int(fd))...) })
	return errors.Join(err, sent)
}

// forget makes systemd close the kept sockets with that name.
func forget(name string) error { return notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// say shows a status in `systemctl status`. Repeating it costs nothing.
func (m *manager) say(status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
	m.show()
}

// remark adds a note to the status.
func (m *manager) remark(note string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note = note
	m.show()
}

func (m *manager) show() {
	text := m.status
	if m.note != "" {
		text += " (" + m.note + ")"
	}
	// systemd would read a new line as another assignment, and a terminal would interpret control characters.
	if text = string(printable([]byte(strings.Join(strings.Fields(text), " ")))); len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "..."
	}
	if text != m.shown {
		m.shown = text
		m.send("STATUS=" + text)
	}
}

func (m *manager) ready() { m.send(systemd.SdNotifyReady) }

// startMargin is what a start may take in addition to the config's startTimeout.
const startMargin = time.Minute

// extend asks systemd for the time that a start may take (sd_notify(3), EXTEND_TIMEOUT_USEC).
func (m *manager) extend(startTimeout time.Duration) {
	m.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (startTimeout + startMargin).Microseconds()))
}

func (m *manager) stopping() { m.send(systemd.SdNotifyStopping) }

func (m *manager) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.send(systemd.SdNotifyReloading)
		return
	}
	m.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, now.Nano()/int64(time.Microsecond)))
}

// alive feeds the watchdog while the worker turns, as often as necessary.
func (m *manager) alive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.watchdog > 0 && now.Sub(m.beat) >= m.watchdog/4 {
		m.beat = now
		m.send(systemd.SdNotifyWatchdog)
	}
}

// interval returns how often to call say and alive while no worker does.
func (m *manager) interval() time.Duration {
	const often = 3 * time.Second
	if m.watchdog > 0 {
		return min(often, m.watchdog/4)
	}
	return often
}

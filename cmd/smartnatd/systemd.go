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

// manager is what started us and watches over us: systemd, or nobody.
type manager struct {
	send func(state string)
	// watchdog is how long we may be silent; 0 where nobody listens.
	watchdog time.Duration

	mu sync.Mutex
	// status is what was said last, note what is said beside it, shown what `systemctl status` has of both.
	status, note, shown string
	beat                time.Time
}

func newManager(log logrus.FieldLogger) *manager {
	m := &manager{send: func(state string) {
		if err := notify(state); err != nil {
			log.WithError(err).Warn("could not notify systemd")
		}
	}}
	var err error
	if m.watchdog, err = systemd.SdWatchdogEnabled(false); err != nil {
		log.WithError(err).Warn("could not read what systemd expects of its watchdog")
	}
	return m
}

// maxStatus is as long as a line in `systemctl status` may become.
const maxStatus = 1000

// notifyPatience is how long systemd may take to make room for one more message.
const notifyPatience = 100 * time.Millisecond

// notify is sd_notify(3), but waits for nobody: whoever does not read what it asked for must not keep the worker from its
// work, nor smartnatd from ending. Open files that go along come as unix(7) says, SCM_RIGHTS.
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

// keep has systemd hold a socket open until smartnatd is stopped, and hand it to each process of ours that starts before
// (sd_notify(3), FDSTORE). Whether there are errors on it is for us to know.
func keep(name string, socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(int(fd))...) })
	return errors.Join(err, sent)
}

// forget has it close what it keeps by that name.
func forget(name string) error { return notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// say shows a text in `systemctl status`. One that is shown already costs nothing.
func (m *manager) say(status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
	m.show()
}

// remark shows a note beside whatever is said.
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
	// A new line would be another word of ours to systemd, and what is not printable would get to a terminal.
	if text = string(printable([]byte(strings.Join(strings.Fields(text), " ")))); len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "..."
	}
	if text != m.shown {
		m.shown = text
		m.send("STATUS=" + text)
	}
}

func (m *manager) ready() { m.send(systemd.SdNotifyReady) }

// startMargin is what a start may take beyond the config's startTimeout.
const startMargin = time.Minute

// extend asks for the time that a start may take (sd_notify(3), EXTEND_TIMEOUT_USEC).
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

// alive tells the watchdog that the worker turns, as often as it has to be told.
func (m *manager) alive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.watchdog > 0 && now.Sub(m.beat) >= m.watchdog/4 {
		m.beat = now
		m.send(systemd.SdNotifyWatchdog)
	}
}

// interval is how often something has to be told while there is no worker that does.
func (m *manager) interval() time.Duration {
	const often = 3 * time.Second
	if m.watchdog > 0 {
		return min(often, m.watchdog/4)
	}
	return often
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package systemd

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

	"github.com/smartnat/smartnat/pkg/logging"
)

// Notifier reports the state of this service to systemd. It is safe for concurrent use.
type Notifier struct {
	send func(state string)
	// watchdog is the longest silence that systemd allows; 0 without a watchdog.
	watchdog time.Duration

	mu sync.Mutex
	// status is the last status and note an addition to it; shown is the text that `systemctl status` has of both.
	status, note, shown string
	beat                time.Time
}

// New returns a Notifier that passes assignments, as in sd_notify(3), to send. watchdog is the longest silence between
// heartbeats, or 0 without a watchdog.
func New(send func(state string), watchdog time.Duration) *Notifier {
	return &Notifier{send: send, watchdog: watchdog}
}

// FromEnvironment returns the Notifier for the systemd that started this process. Without systemd it sends nothing. It logs
// failures to log.
func FromEnvironment(log logrus.FieldLogger) *Notifier {
	watchdog, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		log.WithError(err).Warn("cannot read systemd's watchdog settings")
	}
	return New(func(state string) {
		if err := notify(state); err != nil {
			log.WithError(err).Warn("cannot notify systemd")
		}
	}, watchdog)
}

// maxStatus is the longest text for `systemctl status`.
const maxStatus = 1000

// notifyTimeout bounds the wait for room in systemd's socket.
const notifyTimeout = 100 * time.Millisecond

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
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
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

// StoreFD makes systemd hold a socket open until the service is stopped, and pass it to each next smartnatd process (sd_notify(3),
// FDSTORE). FDPOLL=0 keeps a socket with an error in the store: smartnatd handles the error.
func StoreFD(name string, socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(int(fd))...) })
	return errors.Join(err, sent)
}

// RemoveFD makes systemd close the stored sockets with that name.
func RemoveFD(name string) error { return notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// SetStatus shows a status in `systemctl status`. It sends nothing if the status has not changed.
func (n *Notifier) SetStatus(status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status = status
	n.show()
}

// SetNote adds a note to the status, or removes it if it is empty.
func (n *Notifier) SetNote(note string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note = note
	n.show()
}

func (n *Notifier) show() {
	text := n.status
	if n.note != "" {
		text += " (" + n.note + ")"
	}
	// systemd would read a new line as another assignment, and a terminal would interpret control characters.
	if text = string(logging.Printable([]byte(strings.Join(strings.Fields(text), " ")))); len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "..."
	}
	if text != n.shown {
		n.shown = text
		n.send("STATUS=" + text)
	}
}

// Ready ends a start or reload.
func (n *Notifier) Ready() { n.send(systemd.SdNotifyReady) }

// startMargin is what a start may take in addition to the config's startTimeout.
const startMargin = time.Minute

// ExtendTimeout asks systemd for the time that a start may take (sd_notify(3), EXTEND_TIMEOUT_USEC).
func (n *Notifier) ExtendTimeout(startTimeout time.Duration) {
	n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (startTimeout + startMargin).Microseconds()))
}

// Stopping begins the end of the service.
func (n *Notifier) Stopping() { n.send(systemd.SdNotifyStopping) }

// Reloading begins a reload, which Ready ends.
func (n *Notifier) Reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		n.send(systemd.SdNotifyReloading)
		return
	}
	n.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, now.Nano()/int64(time.Microsecond)))
}

// Heartbeat feeds the watchdog. It may be called often and sends only as often as necessary.
func (n *Notifier) Heartbeat() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.watchdog > 0 && now.Sub(n.beat) >= n.watchdog/4 {
		n.beat = now
		n.send(systemd.SdNotifyWatchdog)
	}
}

// Interval returns how often to call SetStatus and Heartbeat at least.
func (n *Notifier) Interval() time.Duration {
	const often = 3 * time.Second
	if n.watchdog > 0 {
		return min(often, n.watchdog/4)
	}
	return often
}

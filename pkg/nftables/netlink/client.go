// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Client reads and writes tables through one socket, which owns the tables that it creates if the kernel permits that: no other
// socket can change them then, not even `nft flush ruleset`. It is not safe for concurrent use.
type Client struct {
	conn  *netlink.Conn
	raw   syscall.RawConn
	flags uint32
	// replies is the buffer for the answers to a transaction.
	replies []byte
	sendBuf int
}

// Options configures a Client.
type Options struct {
	// Shared leaves tables without an owner, as on kernels before Linux 6.9.
	Shared bool
}

// answerTimeout bounds the wait for an answer of the kernel, which is ready once it has processed the request.
const answerTimeout = 30 * time.Second

// New returns a Client for the network namespace of the calling thread.
func New(opts Options) (*Client, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("connecting to nf_tables: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to nf_tables: %w", err), conn.Close())
	}
	c := &Client{conn: conn, raw: raw, replies: make([]byte, 64<<10)}
	if !opts.Shared {
		c.flags = tableOwner | tablePersist
	}
	return c, nil
}

// Close closes the socket. Its tables stay, and have no owner any more.
func (c *Client) Close() error { return c.conn.Close() }

// Owns reports whether the Client owns the tables that it creates. NewTables finds out whether the kernel permits that.
func (c *Client) Owns() bool { return c.flags&tableOwner != 0 }

// TableFlags returns the flags for AddTable.
func (c *Client) TableFlags() uint32 { return c.flags }

// Share makes the Client create tables without an owner.
func (c *Client) Share() { c.flags = 0 }

// Commit executes a transaction. If it fails, nothing has changed. The error is gateway.ErrRefused if the kernel refuses
// something in the transaction itself.
func (c *Client) Commit(t *Transaction) error {
	if t.err != nil {
		return t.err
	}
	if t.Empty() {
		return nil
	}
	messages := t.batch()
	if err := c.growSendBuffer(messages); err != nil {
		return err
	}
	sent, err := c.conn.SendMessages(messages)
	if err != nil {
		return fmt.Errorf("writing table %s: %w", t.table, err)
	}
	failures, acknowledged, err := c.receiveAnswers(sent[len(sent)-2].Header.Sequence)
	switch {
	case err != nil:
		return fmt.Errorf("writing table %s: %w", t.table, err)
	case len(failures) == 0 && acknowledged:
		return nil
	case len(failures) == 0:
		return fmt.Errorf("writing table %s: the kernel did not answer", t.table)
	}
	first := failures[0]
	name := "transaction"
	if i := slices.IndexFunc(sent, func(m netlink.Message) bool { return m.Header.Sequence == first.sequence }); i > 0 && i <= len(t.names) {
		name = t.names[i-1]
	}
	err = fmt.Errorf("writing table %s: %s: %w", t.table, name, first.errno)
	if isRefusal(first.errno) {
		return fmt.Errorf("%w: %w", gateway.ErrRefused, err)
	}
	return err
}

// isRefusal reports whether the kernel refuses a message because of its content.
func isRefusal(errno syscall.Errno) bool {
	return slices.Contains([]syscall.Errno{
		unix.EINVAL, unix.EOPNOTSUPP, unix.ENOENT, unix.ERANGE, unix.EOVERFLOW, unix.ELOOP, unix.EMLINK, unix.E2BIG, unix.EEXIST, unix.ENFILE,
	}, errno)
}

// growSendBuffer makes room for a transaction, which is one datagram.
func (c *Client) growSendBuffer(messages []netlink.Message) error {
	size := 0
	for _, m := range messages {
		size += unix.NLMSG_HDRLEN + (len(m.Data)+3)/4*4
	}
	const reserve = 1 << 16
	if size+reserve <= c.sendBuf {
		return nil
	}
	if err := c.conn.SetWriteBuffer(size + reserve); err != nil {
		return fmt.Errorf("enlarging the send buffer to %d bytes: %w", size+reserve, err)
	}
	c.sendBuf = size + reserve
	return nil
}

// failure is a message that the kernel refused.
type failure struct {
	sequence uint32
	errno    syscall.Errno
}

// receiveAnswers receives all answers to a batch. The kernel has processed it when the call that sends it returns, so they wait
// on the socket.
func (c *Client) receiveAnswers(last uint32) (failures []failure, acknowledged bool, err error) {
	// The deadline of an earlier request may be over: a transaction can take long.
	if err := c.conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, false, err
	}
	readErr := c.raw.Read(func(fd uintptr) bool {
		for {
			n, _, failed := unix.Recvfrom(int(fd), c.replies, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(failed, unix.EAGAIN):
				return true
			case errors.Is(failed, unix.EINTR):
				continue
			case failed != nil:
				err = failed // ENOBUFS: more answers than fit
				return true
			}
			found, done, broken := parseAnswers(c.replies[:n], last)
			failures, acknowledged = append(failures, found...), acknowledged || done
			if broken != nil {
				err = broken
				return true
			}
		}
	})
	return failures, acknowledged, errors.Join(err, readErr)
}

// parseAnswers returns the failures in a datagram, and whether it acknowledges a message.
func parseAnswers(datagram []byte, last uint32) (failures []failure, acknowledged bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return nil, false, fmt.Errorf("an answer of %d bytes is cut off: %w", len(datagram), err)
	}
	for _, m := range messages {
		if m.Header.Type != unix.NLMSG_ERROR {
			continue
		}
		if len(m.Data) < 4 {
			return nil, false, fmt.Errorf("an answer of %d bytes is cut off", len(datagram))
		}
		if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
			failures = append(failures, failure{m.Header.Seq, syscall.Errno(-code)})
		} else {
			acknowledged = acknowledged || m.Header.Seq == last
		}
	}
	return failures, acknowledged, nil
}

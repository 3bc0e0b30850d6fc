// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// patience bounds a wait for an answer if the caller's context has no deadline.
const patience = 3 * time.Second

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, patience)
}

// Dial opens a connection from the host with the given source port, or any if it is 0.
func (h *Host) Dial(ctx context.Context, network, address string, sourcePort uint16) (conn net.Conn, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	dialer := net.Dialer{}
	switch {
	case sourcePort == 0:
	case strings.HasPrefix(network, "tcp"):
		dialer.LocalAddr = &net.TCPAddr{Port: int(sourcePort)}
	default:
		dialer.LocalAddr = &net.UDPAddr{Port: int(sourcePort)}
	}
	err = h.Do(func() error {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return conn, nil
}

// HTTPClient returns a client on the host without keep-alive.
func (h *Host) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return h.Dial(ctx, network, address, 0)
		},
	}}
}

// HTTPGet fetches a URL from a pod.
func (h *Host) HTTPGet(ctx context.Context, url string) (Answer, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Answer{}, err
	}
	response, err := h.HTTPClient().Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return Answer{}, fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return ParseAnswer(body)
}

// EchoTCP opens a connection to a pod, sends a message, and returns the answer.
func (h *Host) EchoTCP(ctx context.Context, address string) (Answer, error) {
	return h.echo(ctx, "tcp", address)
}

// EchoUDP sends one datagram from a new port and returns the answer.
func (h *Host) EchoUDP(ctx context.Context, address string) (Answer, error) {
	return h.echo(ctx, "udp", address)
}

func (h *Host) echo(ctx context.Context, network, address string) (Answer, error) {
	flow, err := h.OpenFlow(ctx, network, address, 0)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = flow.Close() }()
	return flow.Echo(ctx)
}

// Flow is a persistent TCP connection or UDP flow.
type Flow struct {
	Conn    net.Conn
	reader  *bufio.Reader
	counter atomic.Int64
}

// OpenFlow opens a flow ("tcp" or "udp") with the given source port, or any if it is 0.
func (h *Host) OpenFlow(ctx context.Context, network, address string, sourcePort uint16) (*Flow, error) {
	conn, err := h.Dial(ctx, network, address, sourcePort)
	if err != nil {
		return nil, err
	}
	size := 4 << 10
	if strings.HasPrefix(network, "udp") {
		size = 64 << 10 // a datagram must be read at once
	}
	return &Flow{Conn: conn, reader: bufio.NewReaderSize(conn, size)}, nil
}

// LocalPort returns the flow's source port.
func (f *Flow) LocalPort() uint16 { return addrPort(f.Conn.LocalAddr()).Port() }

// Close ends the flow.
func (f *Flow) Close() error { return f.Conn.Close() }

// Echo sends a message on the flow and returns the answer to that message.
func (f *Flow) Echo(ctx context.Context) (Answer, error) {
	return f.Say(ctx, "")
}

// Say is Echo with an additional text without newlines. A long text is a transfer in both directions.
func (f *Flow) Say(ctx context.Context, text string) (Answer, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := f.Conn.SetDeadline(deadline); err != nil {
		return Answer{}, err
	}
	message := fmt.Sprintf("message %d%s", f.counter.Add(1), text)
	text = message
	if f.Conn.LocalAddr().Network() == "tcp" {
		text += "\n"
	}
	if _, err := io.WriteString(f.Conn, text); err != nil {
		return Answer{}, err
	}
	for {
		line, err := f.reader.ReadBytes('\n')
		if err != nil {
			return Answer{}, err
		}
		answer, err := ParseAnswer(line)
		if err != nil || answer.Message == message { // otherwise it answers an earlier message
			return answer, err
		}
	}
}

// ParseAnswer parses a pod's answer.
func ParseAnswer(text []byte) (Answer, error) {
	var answer Answer
	if err := json.Unmarshal(text, &answer); err != nil {
		return Answer{}, fmt.Errorf("not a pod's answer: %q: %w", text, err)
	}
	return answer, nil
}

// Join formats an address and a port, with brackets for IPv6.
func Join(address string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(address), port).String()
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// Answer is the response of a pod.
type Answer struct {
	// Pod is the name of the pod.
	Pod string `json:"pod"`
	// Client is the address that the pod saw.
	Client netip.AddrPort `json:"client"`
	// Port is the pod's port that received the message.
	Port uint16 `json:"port"`
	// Message is the received message.
	Message string `json:"message"`
}

// echoServer answers on a port by TCP, by HTTP on the same port, and by UDP, with a JSON object for each line or datagram. It
// runs in the lab's process, on sockets of the pod.
type echoServer struct {
	pod       string
	listeners []io.Closer

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// Serve makes the host answer on ports as a pod does, until the server is closed.
func (h *Host) Serve(ports ...uint16) (io.Closer, error) { return startEcho(h.Name, h, ports) }

// startEcho starts a server on the ports of a pod.
func startEcho(pod string, h *Host, ports []uint16) (*echoServer, error) {
	e := &echoServer{pod: pod, conns: map[net.Conn]bool{}}
	err := h.Do(func() error {
		for _, port := range ports {
			address := fmt.Sprintf(":%d", port)
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			e.listeners = append(e.listeners, listener)
			go e.accept(listener)
			packets, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
			if err != nil {
				return err
			}
			e.listeners = append(e.listeners, packets)
			go e.datagrams(packets)
		}
		return nil
	})
	if err != nil {
		_ = e.Close()
		return nil, fmt.Errorf("pod %s: listening: %w", pod, err)
	}
	return e, nil
}

// Close stops the server and closes its connections, as the end of its process would.
func (e *echoServer) Close() error {
	for _, listener := range e.listeners {
		_ = listener.Close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for conn := range e.conns {
		_ = conn.Close()
	}
	return nil
}

func (e *echoServer) track(conn net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.conns[conn] = true
	return true
}

func (e *echoServer) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go e.serve(conn)
	}
}

// serve handles one connection until the client closes it.
func (e *echoServer) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		e.mu.Lock()
		delete(e.conns, conn)
		e.mu.Unlock()
	}()
	if !e.track(conn) {
		return
	}
	reader := bufio.NewReader(conn)
	if method, err := reader.Peek(4); err == nil && string(method) == "GET " {
		e.serveHTTP(conn, reader)
		return
	}
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := conn.Write(e.answer(addrPort(conn.RemoteAddr()), conn.LocalAddr(), strings.TrimSuffix(line, "\n"))); err != nil {
			return
		}
	}
}

func (e *echoServer) serveHTTP(conn net.Conn, reader *bufio.Reader) {
	request, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	body := e.answer(addrPort(conn.RemoteAddr()), conn.LocalAddr(), request.URL.Path)
	response := http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: request, Close: true,
		Header:        http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	_ = response.Write(conn) // the client sees the failure
}

func (e *echoServer) datagrams(packets *net.UDPConn) {
	buffer := make([]byte, 64*1024)
	for {
		n, client, err := packets.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		text := e.answer(client, packets.LocalAddr(), string(buffer[:n]))
		_, _ = packets.WriteToUDPAddrPort(text, client)
	}
}

func (e *echoServer) answer(client netip.AddrPort, local net.Addr, message string) []byte {
	// Show IPv4 addresses as such, even on dual-stack sockets.
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	text, _ := json.Marshal(Answer{Pod: e.pod, Client: client, Port: addrPort(local).Port(), Message: message}) // cannot fail
	return append(text, '\n')
}

// addrPort returns a socket's address.
func addrPort(address net.Addr) netip.AddrPort {
	parsed, _ := netip.ParseAddrPort(address.String()) // always valid
	return parsed
}

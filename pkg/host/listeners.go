// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// lasting is the age at which a UDP socket on a port from the kernel's range for clients counts as a listener. A resolver opens
// hundreds of such sockets per second and closes each after its answer.
const lasting = 15 * time.Second

// From linux/inet_diag.h and net/tcp_states.h. A UDP socket that is bound but not connected has the state "close".
const (
	stateClose, stateListen = 7, 10
	inetDiagSKV6Only        = 11
	sizeofInetDiagReq       = 56
	sizeofInetDiagMsg       = 72
)

// sockets remembers since when each UDP socket exists.
type sockets struct {
	mu    sync.Mutex
	known map[uint64]time.Time
	blind bool
}

// socket is a socket as the kernel reports it.
type socket struct {
	gateway.Listener
	cookie uint64
	// both means that an IPv6 socket accepts IPv4 too.
	both bool
}

// Listeners returns the sockets of programs on this host that accept connections or datagrams from any sender. It costs a few
// netlink messages. It omits UDP sockets on ports from the kernel's range for clients until they are 15 s old. Sockets that
// exist at the first call count at once: a restart must not open a port that was closed to Mappings.
func (h *Host) Listeners() ([]gateway.Listener, error) {
	var found []socket
	for _, of := range []struct {
		protocol gateway.Protocol
		number   uint8
		state    uint
	}{{gateway.TCP, unix.IPPROTO_TCP, stateListen}, {gateway.UDP, unix.IPPROTO_UDP, stateClose}} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			list, err := dumpSockets(of.protocol, diagRequest{family, of.number, 1 << of.state})
			if err != nil {
				return h.cannotSee(err)
			}
			found = append(found, list...)
		}
	}
	nameLinks(found)
	return h.sockets.settle(found, clientPorts(), time.Now()), nil
}

// cannotSee returns no listeners if the kernel lacks sock_diag.
func (h *Host) cannotSee(err error) ([]gateway.Listener, error) {
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("reading which ports programs listen on: %w", err)
	}
	h.sockets.mu.Lock()
	defer h.sockets.mu.Unlock()
	if !h.sockets.blind {
		h.sockets.blind = true
		h.log.WithError(err).Warn("kernel lacks inet_diag, protecting only reservedPorts")
	}
	return nil, nil
}

// settle returns the sockets that count as listeners.
func (s *sockets) settle(found []socket, client gateway.PortRange, now time.Time) []gateway.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, first := s.known, s.known == nil
	s.known = map[uint64]time.Time{}
	var listeners []gateway.Listener
	for _, f := range found {
		if f.Protocol == gateway.UDP && client.Contains(f.Port) {
			since, known := before[f.cookie]
			if !known && !first {
				since = now
			}
			s.known[f.cookie] = since
			if now.Sub(since) < lasting {
				continue
			}
		}
		listeners = append(listeners, f.Listener)
		if f.both {
			f.Address = netip.IPv4Unspecified()
			listeners = append(listeners, f.Listener)
		}
	}
	slices.SortFunc(listeners, gateway.Listener.Compare)
	return slices.Compact(listeners)
}

// clientPorts returns the range from which the kernel selects ports for clients, for both families (ip-sysctl.rst,
// ip_local_port_range).
func clientPorts() gateway.PortRange {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if ends := strings.Fields(string(text)); err == nil && len(ends) == 2 {
		first, errFirst := strconv.ParseUint(ends[0], 10, 16)
		last, errLast := strconv.ParseUint(ends[1], 10, 16)
		if errFirst == nil && errLast == nil {
			return gateway.PortRange{First: uint16(first), Last: uint16(last)}
		}
	}
	return gateway.PortRange{First: 32768, Last: 60999}
}

// nameLinks replaces the indexes of existing links with their names.
func nameLinks(found []socket) {
	for i := range found {
		if found[i].Link == "" {
			continue
		}
		if index, err := strconv.Atoi(found[i].Link); err == nil {
			if link, err := netlink.LinkByIndex(index); err == nil {
				found[i].Link = link.Attrs().Name
			}
		}
	}
}

// diagRequest is struct inet_diag_req_v2 for all sockets of a family and protocol in some states.
type diagRequest struct {
	family, protocol uint8
	states           uint32
}

func (diagRequest) Len() int { return sizeofInetDiagReq }

func (r diagRequest) Serialize() []byte {
	request := make([]byte, sizeofInetDiagReq)
	request[0], request[1] = r.family, r.protocol
	binary.NativeEndian.PutUint32(request[4:], r.states)
	return request
}

func dumpSockets(protocol gateway.Protocol, of diagRequest) ([]socket, error) {
	var found []socket
	err := retry(func() error {
		found = nil
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddData(of)
		return request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(message []byte) bool {
			if s, ok := parseSocket(message); ok {
				s.Protocol = protocol
				found = append(found, s)
			}
			return true
		})
	})
	return found, err
}

// parseSocket reads a struct inet_diag_msg and its attributes. The link is its index.
func parseSocket(message []byte) (socket, bool) {
	if len(message) < sizeofInetDiagMsg {
		return socket{}, false
	}
	var s socket
	s.Port = binary.BigEndian.Uint16(message[4:])
	if message[0] == unix.AF_INET {
		s.Address = netip.AddrFrom4([4]byte(message[8:12]))
	} else {
		s.Address = netip.AddrFrom16([16]byte(message[8:24])).Unmap()
	}
	if index := binary.NativeEndian.Uint32(message[40:]); index != 0 {
		s.Link = strconv.FormatUint(uint64(index), 10)
	}
	s.cookie = uint64(binary.NativeEndian.Uint32(message[44:])) | uint64(binary.NativeEndian.Uint32(message[48:]))<<32
	if s.Address.Is6() && s.Address.IsUnspecified() {
		s.both = !onlyIPv6(message[sizeofInetDiagMsg:])
	}
	return s, s.Port != 0
}

// onlyIPv6 reports the value of IPV6_V6ONLY. Without the attribute, it assumes that the socket accepts both families.
func onlyIPv6(attributes []byte) bool {
	list, err := nl.ParseRouteAttr(attributes)
	return err == nil && slices.ContainsFunc(list, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == inetDiagSKV6Only && len(a.Value) > 0 && a.Value[0] != 0
	})
}

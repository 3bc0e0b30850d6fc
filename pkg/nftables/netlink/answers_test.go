// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"encoding/binary"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answer returns a message of the kernel.
func answer(kind uint16, sequence uint32, data ...byte) []byte {
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(data)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = binary.NativeEndian.AppendUint16(message, 0)
	message = binary.NativeEndian.AppendUint32(message, sequence)
	message = binary.NativeEndian.AppendUint32(message, 0)
	return append(message, data...)
}

func errno(sequence uint32, code syscall.Errno) []byte {
	return answer(unix.NLMSG_ERROR, sequence, binary.NativeEndian.AppendUint32(nil, uint32(-int32(code)))...)
}

func TestAnswersToTransactions(t *testing.T) {
	for _, test := range []struct {
		name         string
		datagram     []byte
		failures     []failure
		acknowledged bool
		err          string
	}{
		{name: "acknowledged", datagram: errno(7, 0), acknowledged: true},
		{name: "an answer to another message", datagram: errno(6, 0)},
		{name: "two failures", datagram: append(errno(3, unix.EINVAL), errno(7, unix.ENOENT)...), failures: []failure{{3, unix.EINVAL}, {7, unix.ENOENT}}},
		{name: "cut off in the header", datagram: errno(7, 0)[:10]},
		{name: "cut off in the number", datagram: answer(unix.NLMSG_ERROR, 7, 0, 0), err: "an answer of 18 bytes is cut off"},
		{name: "without a number", datagram: answer(unix.NLMSG_ERROR, 7), err: "an answer of 16 bytes is cut off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			failures, acknowledged, err := parseAnswers(test.datagram, 7)
			if diff := cmp.Diff(test.failures, failures, cmp.AllowUnexported(failure{})); diff != "" || acknowledged != test.acknowledged {
				t.Errorf("acknowledged %t, failures (-want +got):\n%s", acknowledged, diff)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for code, want := range map[syscall.Errno]bool{
		unix.EINVAL: true, unix.EOPNOTSUPP: true, unix.ENOENT: true, unix.EEXIST: true,
		unix.ENOBUFS: false, unix.ENOMEM: false, unix.EBUSY: false, unix.EPERM: false, unix.EINTR: false, unix.ERESTART: false,
	} {
		if got := isRefusal(code); got != want {
			t.Errorf("%v: %t, want %t", code, got, want)
		}
	}
}

func TestAnswersToRequests(t *testing.T) {
	for _, test := range []struct {
		name     string
		datagram []byte
		answers  int
		done     bool
		err      string
	}{
		{name: "more to come", datagram: answer(2562, 7, 2, 0, 0, 0), answers: 1},
		{name: "the last one", datagram: append(answer(2562, 7, 2, 0, 0, 0), answer(unix.NLMSG_DONE, 7, 0, 0, 0, 0)...), answers: 1, done: true},
		{name: "an answer to an earlier request", datagram: errno(6, unix.EINVAL)},
		{name: "refused", datagram: errno(7, unix.ENOENT), done: true, err: unix.ENOENT.Error()},
		{name: "a dump that changed meanwhile", datagram: answer(unix.NLMSG_DONE, 7, errno(7, unix.EINTR)[unix.NLMSG_HDRLEN:]...), done: true, err: unix.EINTR.Error()},
		{name: "cut off", datagram: answer(unix.NLMSG_DONE, 7), done: true, err: "an answer of 16 bytes is cut off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answers := 0
			done, err := eachAnswer(test.datagram, 7, func(netlink.Message) { answers++ })
			if answers != test.answers || done != test.done {
				t.Errorf("%d answers, done %t", answers, done)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

// FuzzDecode expects that no answer of a kernel makes decoding panic.
func FuzzDecode(f *testing.F) {
	var e encoder
	e.text(unix.NFTA_RULE_TABLE, "smartnat")
	e.nested(unix.NFTA_RULE_EXPRESSIONS, func() {
		e.nested(unix.NFTA_LIST_ELEM, func() {
			e.text(unix.NFTA_EXPR_NAME, "cmp")
			e.nested(unix.NFTA_EXPR_DATA, func() { e.value(unix.NFTA_CMP_DATA, "\x01") })
		})
	})
	f.Add([]byte(e))
	f.Add([]byte{})
	f.Add([]byte{8, 0, 1, 0, 1, 2, 3, 4})
	f.Fuzz(func(_ *testing.T, data []byte) {
		m := netlink.Message{Data: append([]byte{2, 0, 0, 0}, data...)}
		_, _, _ = chainOf(m)
		_, _, _ = ruleOf(m)
		_, _, _ = setOf(m)
		_, _, _ = helperOf(m)
		_, _, _ = flowtableOf(m)
		_, _ = elementsOf(nil, m)
		_, _ = countsOf(nil, m)
		_, _ = eachAnswer(data, 1, func(netlink.Message) {})
		_, _, _ = parseAnswers(data, 1)
		_ = commentOf(data)
	})
}

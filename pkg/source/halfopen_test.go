// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
)

func TestMain(m *testing.M) {
	if err := NoticeSilence(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// pipe forwards connections to a server until it is cut. Then it drops all data, and neither side notices.
type pipe struct {
	net.Listener
	cut chan struct{}
}

func newPipe(t *testing.T, to string) *pipe {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pipe{Listener: listener, cut: make(chan struct{})}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			t.Cleanup(func() { _, _ = near.Close(), far.Close() })
			go p.pass(near, far)
			go p.pass(far, near)
		}
	}()
	return p
}

func (p *pipe) pass(to io.Writer, from io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-p.cut: // like a dropped packet
		default:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// TestAConnectionThatIsHalfOpenIsGivenUp proves that a half-open connection is closed after 15 seconds although no packet reports it.
// client-go's own limit is 45 seconds.
func TestAConnectionThatIsHalfOpenIsGivenUp(t *testing.T) {
	t.Parallel()
	server := newStub(t, true)
	server.add("mappings", echoMapping)
	between := newPipe(t, server.Listener.Addr().String())
	log, hook := testLog()
	source, err := New(config.Source{Relay: &config.Relay{
		Servers: []string{"https://" + between.Addr().String()}, CAFile: server.caFile(t), TokenFile: writeFile(t, "token", "secret"),
	}}, func() {}, log)
	if err != nil {
		t.Fatal(err)
	}
	start(t, source)
	eventually(t, "watched", func() bool { return source.HasSynced() && server.watched("mappings") })
	close(between.cut)
	_ = between.Close()
	began := time.Now()
	within(t, 30*time.Second, "the lost connection", func() bool { return messages(hook, "lost connection") == 1 })
	t.Logf("noticed after %s", time.Since(began))
	if len(source.Snapshot().Mappings) != 1 {
		t.Error("the known objects are gone")
	}
}

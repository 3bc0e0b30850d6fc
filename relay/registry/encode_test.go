// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// client accepts everything that a watch writes.
type client struct{ *httptest.ResponseRecorder }

func (client) SetWriteDeadline(time.Time) error { return nil }

// TestOutputKeepsNothing proves that a watch keeps no buffer after it has written everything in pieces.
func TestOutputKeepsNothing(t *testing.T) {
	to := client{httptest.NewRecorder()}
	o := newOutput(to)
	defer o.end()
	if err := o.begin("application/json"); err != nil {
		t.Fatal(err)
	}
	if o.buffer != nil || !to.Flushed {
		t.Error("the header was not flushed")
	}
	var want strings.Builder
	for _, n := range []int{10, 3 * pieceSize, 100, pieceSize, 5*pieceSize + 1, 1} {
		text := strings.Repeat("x", n-1) + "\n"
		want.WriteString(text)
		if _, err := o.writer().WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
		if to.Body.String() != want.String() {
			t.Fatalf("%d bytes arrived, want %d", to.Body.Len(), want.Len())
		}
		if o.buffer != nil {
			t.Errorf("a quiet watch keeps %d bytes", o.buffer.Size())
		}
	}
}

// TestWritesThatTakeTooLongFail proves that a client that does not accept a write is cut off, and that one that is quiet
// for the same time is not.
func TestWritesThatTakeTooLongFail(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			failed := make(chan error, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				o := newOutput(w)
				o.timeout = 500 * time.Millisecond // also for a write that must succeed, on a busy machine
				defer o.end()
				err := o.begin(req.Proto)
				time.Sleep(3 * o.timeout)
				for written := 0; err == nil && written < 64<<20; written += pieceSize {
					if _, err = o.writer().Write(make([]byte, pieceSize)); err == nil {
						err = o.flush()
					}
					if written == 0 && err != nil {
						t.Errorf("after a quiet period: %v", err)
					}
				}
				failed <- err
			}))
			server.EnableHTTP2 = protocol == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			response, err := server.Client().Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if got := response.Header.Get("Content-Type"); got != protocol {
				t.Fatalf("protocol %s, want %s", got, protocol)
			}
			select {
			case err := <-failed:
				if err == nil {
					t.Error("the write succeeded although the client does not read")
				}
			case <-time.After(time.Minute):
				t.Error("the write did not end")
			}
		})
	}
}

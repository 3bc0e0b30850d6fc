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

// client takes what a watch writes.
type client struct{ *httptest.ResponseRecorder }

func (client) SetWriteDeadline(time.Time) error { return nil }

// A watch keeps nothing once it has written what there is, and writes all of it, in pieces.
func TestOutputKeepsNothing(t *testing.T) {
	to := client{httptest.NewRecorder()}
	o := newOutput(to)
	defer o.end()
	if err := o.begin("application/json"); err != nil {
		t.Fatal(err)
	}
	if o.buffer != nil || !to.Flushed {
		t.Error("the beginning is not on its way")
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

// A client that does not take what is written is cut off, and one that is merely quiet for as long is not.
func TestWritesThatTakeTooLongFail(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			failed := make(chan error, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				o := newOutput(w)
				o.timeout = 100 * time.Millisecond
				defer o.end()
				err := o.begin(req.Proto)
				time.Sleep(3 * o.timeout)
				for written := 0; err == nil && written < 64<<20; written += pieceSize {
					if _, err = o.writer().Write(make([]byte, pieceSize)); err == nil {
						err = o.flush()
					}
					if written == 0 && err != nil {
						t.Errorf("after a quiet time: %v", err)
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
				t.Fatalf("by %s, want %s", got, protocol)
			}
			select {
			case err := <-failed:
				if err == nil {
					t.Error("all of it was written, although nobody reads")
				}
			case <-time.After(20 * time.Second):
				t.Error("it is still being written")
			}
		})
	}
}

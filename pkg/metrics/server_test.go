// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
)

// get returns the status code and body, or 0 and the error.
func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s within a minute", what)
		}
	}
}

// free returns an address without a listener. Its host is not the one at which other tests listen and from which connections come, so
// that none of them takes the port.
func free(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.84.70.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newServer(t *testing.T) (*Server, *logtest.Hook) {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	s := New("1.2.3", &fakeStatus{}).Server(Probes{
		Alive: func() error { return nil },
		Ready: func() error { return errors.New("not yet") },
	}, nil, log)
	s.retry = 10 * time.Millisecond
	t.Cleanup(func() { s.Listen("") })
	return s, hook
}

func TestWhatIsServed(t *testing.T) {
	s, _ := newServer(t)
	address := free(t)
	s.Listen(address)
	eventually(t, "served", func() bool { code, _ := get(t, address, "/livez"); return code == http.StatusOK })
	for _, test := range []struct {
		path string
		code int
		body string
	}{
		{"/metrics", http.StatusOK, "smartnat_build_info{"},
		{"/metrics", http.StatusOK, "\ngo_goroutines "},
		{"/metrics", http.StatusOK, "\nprocess_resident_memory_bytes "},
		{"/livez", http.StatusOK, "ok\n"},
		{"/readyz", http.StatusServiceUnavailable, "not yet"},
		{"/debug/pprof/", http.StatusNotFound, ""},
		{"/", http.StatusNotFound, ""},
	} {
		if code, body := get(t, address, test.path); code != test.code || !strings.Contains(body, test.body) {
			t.Errorf("%s: %d, want %d and %q in:\n%s", test.path, code, test.code, test.body, body)
		}
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:9470": "127.0.0.1:9470", "[::1]:9470": "[::1]:9470", "localhost:9470": "localhost:9470", ":9470": ":9470",
		"0.0.0.0:9470": "0.0.0.0:9470", "[::]:9470": "[::]:9470", "10.10.0.21:9470": "10.10.0.21:9470 127.0.0.1:9470",
		"[2001:db8::1]:9471": "[2001:db8::1]:9471 127.0.0.1:9471", "gateway-1:9470": "gateway-1:9470 127.0.0.1:9470",
	} {
		if got := strings.Join((&Server{page: true}).addresses(address), " "); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
		if got := strings.Join((&Server{}).addresses(address), " "); got != address {
			t.Errorf("%s without a page: %s", address, got)
		}
	}
}

func TestTheAddressMayChange(t *testing.T) {
	s, _ := newServer(t)
	first, second := free(t), free(t)
	for _, step := range []struct{ name, address, gone string }{
		{"the first", first, second}, {"the first again", first, second}, {"the second", second, first}, {"none", "", second},
	} {
		s.Listen(step.address)
		if step.address != "" {
			eventually(t, "served at "+step.name, func() bool { code, _ := get(t, step.address, "/livez"); return code == http.StatusOK })
		}
		if code, _ := get(t, step.gone, "/livez"); code != 0 {
			t.Errorf("%s: the other address still answers %d", step.name, code)
		}
	}
}

// TestATakenAddressIsToldOnce expects one warning while the address is in use, and service once it is free.
func TestATakenAddressIsToldOnce(t *testing.T) {
	s, hook := newServer(t)
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := taken.Addr().String()
	s.Listen(address) // does not block
	eventually(t, "logged", func() bool { return len(hook.AllEntries()) > 0 })
	time.Sleep(10 * s.retry)
	if entries := hook.AllEntries(); len(entries) != 1 || !strings.Contains(entries[0].Message, "cannot listen") || entries[0].Data["address"] != address {
		t.Errorf("logged %d times, first %q %v", len(entries), entries[0].Message, entries[0].Data)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "served", func() bool { code, _ := get(t, address, "/livez"); return code == http.StatusOK })
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

const edge1 = "system:serviceaccount:smartnat:edge-1"

var start = time.Unix(1_800_000_000, 0)

// newToken returns a token of a subject; mark makes it another one.
func newToken(subject, mark string, begins, ends time.Time) string {
	return newTokenOf("https://cluster-1", subject, mark, begins, ends)
}

func newTokenOf(issuer, subject, mark string, begins, ends time.Time) string {
	claims := fmt.Sprintf(`{"iss":%q,"sub":%q,"iat":%d,"exp":%d}`, issuer, subject, begins.Unix(), ends.Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + base64.RawURLEncoding.EncodeToString([]byte(mark))
}

func TestDue(t *testing.T) {
	hour, week, year := time.Hour, 7*24*time.Hour, 365*24*time.Hour
	for _, test := range []struct {
		name     string
		lifetime time.Duration
		age      time.Duration // by the clock of the host
		held     time.Duration // since this process got it, or 0
		want     bool
	}{
		{"of an enrollment, at once", hour, 0, 0, true},
		{"of an enrollment, ended", hour, 2 * hour, 0, true},
		{"of a week, new", week, hour, 0, false},
		{"of a week, after a day", week, 24 * hour, 0, true},
		{"of ten hours, before four fifths", 10 * hour, 8*hour - time.Second, 0, false},
		{"of ten hours, after four fifths", 10 * hour, 8 * hour, 0, true},
		{"of a year, as earlier versions gave, after a day", year, 25 * hour, 0, true},
		{"that begins in the future: the clock is wrong", week, -48 * hour, 0, true},
		{"renewed by this process for an hour, as the cluster limits it", hour, 10 * time.Minute, 10 * time.Minute, false},
		{"renewed by this process for an hour, after four fifths", hour, 48 * time.Minute, 48 * time.Minute, true},
		{"renewed by this process, by a clock that is a day behind", hour, -24 * hour, 47 * time.Minute, false},
		{"renewed by this process, by a clock that is a day behind, after four fifths", hour, -24 * hour, 48 * time.Minute, true},
		{"renewed by this process, by a clock that is a day ahead", week, 25 * hour, hour, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			token := Token{Subject: edge1, Begins: start, Ends: start.Add(test.lifetime)}
			now := start.Add(test.age)
			var received time.Time
			if test.held > 0 {
				received = now.Add(-test.held)
			}
			if got := token.due(now, received); got != test.want {
				t.Errorf("due: %v", got)
			}
		})
	}
	if (Token{Subject: edge1, Begins: start}).due(start.Add(year), time.Time{}) {
		t.Error("a token without an end is due")
	}
}

// host is a Keeper with a relay that answers as a test says.
type host struct {
	*Keeper
	t      *testing.T
	answer func() (string, error)
	asked  int
	logged *logtest.Hook
}

func newHost(t *testing.T, enrolled string) *host {
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.InfoLevel)
	h := &host{t: t, logged: hook}
	h.Keeper = &Keeper{Files: Files{Enrolled: filepath.Join(t.TempDir(), "token"), Kept: filepath.Join(t.TempDir(), "token")}, Log: log}
	h.Request = func(_ context.Context, namespace, account string) (string, error) {
		if h.asked++; namespace != "smartnat" || account != "edge-1" {
			t.Errorf("asked for %s/%s", namespace, account)
		}
		return h.answer()
	}
	h.enroll(enrolled)
	return h
}

func (h *host) enroll(token string) {
	if err := os.WriteFile(h.Enrolled, []byte(token+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// uses returns the token in the file that smartnatd uses.
func (h *host) uses() string {
	h.t.Helper()
	_, text, err := read(h.Newest(start.Add(time.Minute)))
	if err != nil {
		h.t.Fatal(err)
	}
	return text
}

// lines returns what was logged since the last call.
func (h *host) lines() (lines []string) {
	for _, e := range h.logged.AllEntries() {
		line := e.Message
		if err, ok := e.Data[logrus.ErrorKey].(error); ok {
			line += ": " + err.Error()
		}
		lines = append(lines, line)
	}
	h.logged.Reset()
	return lines
}

var (
	enrolled = newToken(edge1, "enrolled", start, start.Add(time.Hour))
	week     = 7 * 24 * time.Hour
	renewed  = newToken(edge1, "renewed", start.Add(time.Minute), start.Add(week))
	// elsewhere is older than renewed.
	elsewhere = newTokenOf("https://cluster-2", edge1, "elsewhere", start, start.Add(time.Hour))
	yearLong  = newToken(edge1, "year", start, start.Add(365*24*time.Hour))
)

// TestRenewal follows a gateway from its enrollment over a restart and a second renewal to another enrollment.
func TestRenewal(t *testing.T) {
	h := newHost(t, enrolled)
	h.answer = func() (string, error) { return renewed, nil }
	now := start.Add(time.Minute)
	h.Step(t.Context(), now)
	if h.uses() != renewed || h.asked != 1 {
		t.Fatalf("uses %s after %d requests", h.uses(), h.asked)
	}
	info, err := os.Stat(h.Kept)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the kept token: %v, %v", info.Mode(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(h.Kept)); err != nil || len(files) != 1 {
		t.Errorf("%d files are left, %v", len(files), err)
	}
	// A restart uses the kept token, which is not due.
	h.Keeper = &Keeper{Files: h.Files, Request: h.Request, Log: h.Log}
	if path, err := h.Prepare(start.Add(time.Minute)); err != nil || path != h.Kept || h.uses() != renewed {
		t.Errorf("after a restart: %s, %v", path, err)
	}
	h.Step(t.Context(), now.Add(time.Hour))
	second := newToken(edge1, "second", start.Add(25*time.Hour), start.Add(25*time.Hour+week))
	h.answer = func() (string, error) { return second, nil }
	if h.Step(t.Context(), now.Add(23*time.Hour)); h.asked != 1 {
		t.Errorf("asked %d times before a day", h.asked)
	}
	if h.Step(t.Context(), now.Add(25*time.Hour)); h.uses() != second || h.asked != 2 {
		t.Errorf("uses %s after %d requests", h.uses(), h.asked)
	}
	// Another enrollment wins, also of another gateway.
	h.answer = func() (string, error) { return "", errors.New("down") }
	other := newToken("system:serviceaccount:smartnat:edge-1", "again", start.Add(30*time.Hour), start.Add(31*time.Hour))
	h.enroll(other)
	if h.Step(t.Context(), now.Add(30*time.Hour)); h.uses() != other {
		t.Errorf("uses %s after an enrollment", h.uses())
	}
}

// TestRenewalFails says what happens to the token in use, and what is logged, in each case. A second try in the same state logs nothing.
func TestRenewalFails(t *testing.T) {
	status := func(err error) func() (string, error) { return func() (string, error) { return "", err } }
	text := func(s string) func() (string, error) { return func() (string, error) { return s, nil } }
	accounts := schema.GroupResource{Resource: "serviceaccounts/token"}
	const again = "run kubectl smartnat enroll edge-1, and smartnatd enroll with its output here"
	for _, test := range []struct {
		name   string
		answer func() (string, error)
		line   string
	}{
		{"the relay is down", status(errors.New("connection refused")), "cannot renew the credential, will retry: connection refused"},
		{"the cluster makes no token", status(apierrors.NewServiceUnavailable("the cluster made no token")), "cannot renew the credential, will retry: the cluster made no token"},
		{"the token ended while the host was off", status(apierrors.NewUnauthorized("Unauthorized")),
			"the relay refuses the credential: it ended at 2027-01-15T09:00:00Z or was revoked: " + again},
		{"an older relay", status(apierrors.NewMethodNotSupported(accounts, "create")),
			"the relay does not renew the credential: it ends at 2027-01-15T09:00:00Z, before that " + again + ": create is not supported on resources of kind \"serviceaccounts/token\""},
		{"enrolled by an older kubectl smartnat", status(apierrors.NewForbidden(accounts, "edge-1", errors.New("no"))),
			"the relay does not renew the credential: it ends at 2027-01-15T09:00:00Z, before that " + again + ": serviceaccounts/token \"edge-1\" is forbidden: no"},
		{"garbage", text("<html>"), "cannot renew the credential, will retry: the relay's answer is not a JSON Web Token: want three parts"},
		{"no base64", text("a.b*.c"), "cannot renew the credential, will retry: the relay's answer is not a JSON Web Token: its payload is not base64url"},
		{"no claims", text("a.bm8.c"), "cannot renew the credential, will retry: the relay's answer is not a JSON Web Token: its payload has no claims"},
		{"too long", text(newToken(edge1, strings.Repeat("x", maxToken), start, start.Add(week))), "cannot renew the credential, will retry: the relay's answer has"},
		{"the token of another cluster", text(newTokenOf("https://cluster-2", edge1, "", start, start.Add(week))),
			`cannot renew the credential, will retry: the relay's answer is a token of the issuer "https://cluster-2", want one of "https://cluster-1": enroll`},
		{"the token of another", text(newToken("system:serviceaccount:smartnat:edge-2", "", start, start.Add(week))),
			`cannot renew the credential, will retry: the relay's answer is a token of "system:serviceaccount:smartnat:edge-2", want one of "system:serviceaccount:smartnat:edge-1"`},
		{"without an end", text(newToken(edge1, "", start, time.Unix(0, 0))), "cannot renew the credential, will retry: the relay's answer is a token without an end"},
		{"an older token", text(newToken(edge1, "", start.Add(-time.Hour), start.Add(-time.Minute))), "cannot renew the credential, will retry: the relay's answer is an older token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, enrolled)
			h.answer = test.answer
			now := start.Add(time.Minute)
			h.Step(t.Context(), now)
			if lines := h.lines(); len(lines) != 1 || !strings.HasPrefix(lines[0], test.line) {
				t.Errorf("logged %q, want %q", lines, test.line)
			}
			h.Step(t.Context(), now.Add(minRetry-time.Second))
			if h.asked != 1 {
				t.Errorf("asked %d times within %s", h.asked, minRetry)
			}
			h.Step(t.Context(), now.Add(minRetry))
			if lines := h.lines(); h.asked != 2 || len(lines) != 0 {
				t.Errorf("asked %d times, then logged %q", h.asked, lines)
			}
			if h.uses() != enrolled {
				t.Errorf("uses %s", h.uses())
			}
			h.answer = text(renewed)
			h.Step(t.Context(), now.Add(time.Hour))
			if lines := h.lines(); h.uses() != renewed || len(lines) != 1 || lines[0] != "renewed the credential" {
				t.Errorf("once it is possible: uses %s, logged %q", h.uses(), lines)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	for _, test := range []struct {
		name, enrolled, kept, want string
		inState                    bool
		age                        time.Duration
	}{
		{"the first start", enrolled, "", enrolled, true, 0},
		{"a restart", enrolled, renewed, renewed, true, 0},
		{"both ended", enrolled, renewed, renewed, true, week},
		{"an enrollment that lasts longer", yearLong, renewed, yearLong, true, week},
		{"and the kept one is valid", yearLong, renewed, renewed, true, week - time.Hour},
		{"another gateway", newToken("system:serviceaccount:smartnat:edge-2", "two", start, start.Add(time.Hour)), renewed, newToken("system:serviceaccount:smartnat:edge-2", "two", start, start.Add(time.Hour)), true, 0},
		{"another cluster", elsewhere, renewed, elsewhere, true, 0},
		{"no longer a JSON Web Token", "opaque", renewed, "opaque", false, 0},
		{"another enrollment", newToken(edge1, "again", start.Add(time.Hour), start.Add(2*time.Hour)), renewed, newToken(edge1, "again", start.Add(time.Hour), start.Add(2*time.Hour)), true, 0},
		{"another enrollment in the same second", newToken(edge1, "again", start.Add(time.Minute), start.Add(time.Hour)), renewed, newToken(edge1, "again", start.Add(time.Minute), start.Add(time.Hour)), true, 0},
		{"a torn file is ignored", enrolled, renewed[:20], enrolled, true, 0},
		{"the enrolled token is gone", "", renewed, renewed, true, 0},
		{"a token that is no JSON Web Token", "opaque", "", "opaque", false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := Files{Enrolled: filepath.Join(t.TempDir(), "token"), Kept: filepath.Join(t.TempDir(), "token")}
			for path, text := range map[string]string{f.Enrolled: test.enrolled, f.Kept: test.kept} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			now := start.Add(test.age)
			path, _ := f.Prepare(now)
			if kept, _ := os.ReadFile(f.Kept); string(kept) != test.kept {
				t.Errorf("before the config is accepted, %q is kept, want %q", kept, test.kept)
			}
			_ = f.Adopt(now)
			content, err := os.ReadFile(path)
			if files, _ := os.ReadDir(filepath.Dir(f.Kept)); len(files) > 1 {
				t.Errorf("%d files are left", len(files))
			}
			if err != nil || string(content) != test.want || (path == f.Kept) != test.inState {
				t.Errorf("%s: %s, %v, want %s", path, content, err, test.want)
			}
		})
	}
	t.Run("a folder that cannot be written", func(t *testing.T) {
		h := newHost(t, enrolled)
		h.Kept = filepath.Join(t.TempDir(), "none", "token")
		for range 2 {
			h.Step(t.Context(), start.Add(time.Minute))
		}
		if lines := h.lines(); len(lines) > 1 || h.asked != 0 || h.uses() != enrolled {
			t.Errorf("logged %q, asked %d times, uses %s", lines, h.asked, h.uses())
		}
	})
}

// TestClockOfTheCluster enrolls again, after a renewal by an API server whose clock was ahead.
func TestClockOfTheCluster(t *testing.T) {
	of := func(secret string, begins, ends time.Time) string {
		claims := fmt.Sprintf(`{"iss":"https://cluster-1","sub":%q,"iat":%d,"exp":%d,"kubernetes.io":{"secret":{"name":"s","uid":%q}}}`, edge1, begins.Unix(), ends.Unix(), secret)
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	ahead := start.Add(2 * time.Hour)
	kept := of("one", ahead, ahead.Add(week))
	again := of("two", start, start.Add(time.Hour))
	for _, test := range []struct {
		name, enrolled, kept string
		written              time.Duration // after the kept one
		age                  time.Duration
		want                 string
	}{
		{"another enrollment", again, kept, time.Second, 0, again},
		{"another enrollment than that of an earlier version", again, newToken(edge1, "unbound", ahead, ahead.Add(week)), time.Second, 0, again},
		{"an enrollment before the kept one", again, kept, -time.Second, 0, kept},
		{"an enrollment that was put back after its token ended", again, kept, time.Second, time.Hour, kept},
		{"the same enrollment, restored", of("one", start, start.Add(time.Hour)), kept, time.Second, 0, kept},
		{"an enrollment of an earlier version", enrolled, kept, time.Second, 0, kept},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, test.enrolled)
			h.answer = func() (string, error) { return "", errors.New("down") }
			if err := os.WriteFile(h.Kept, []byte(test.kept), 0o600); err != nil {
				t.Fatal(err)
			}
			for path, at := range map[string]time.Time{h.Kept: start, h.Enrolled: start.Add(test.written)} {
				if err := os.Chtimes(path, at, at); err != nil {
					t.Fatal(err)
				}
			}
			now := start.Add(test.age)
			if _, text, err := read(h.Newest(now)); err != nil || text != test.want {
				t.Errorf("uses %s, %v, want %s", text, err, test.want)
			}
			for range 2 { // once it is kept, it stays
				h.Step(t.Context(), now)
				if text, err := os.ReadFile(h.Kept); err != nil || string(text) != test.want {
					t.Errorf("keeps %s, %v, want %s", text, err, test.want)
				}
			}
		})
	}
}

func TestRequest(t *testing.T) {
	answer := `{"kind":"TokenRequest","status":{"token":"a.b.c"}}`
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked = req.Method + " " + req.URL.Path
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	request, err := NewRequest(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if token, err := request(t.Context(), "smartnat", "edge-1"); err != nil || token != "a.b.c" {
		t.Errorf("%q, %v", token, err)
	}
	if want := "POST /api/v1/namespaces/smartnat/serviceaccounts/edge-1/token"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	for _, answer = range []string{"", "null", "[]", "<html>", `{"status":{}}`, `{"status":{"token":1}}`} {
		if token, err := request(t.Context(), "smartnat", "edge-1"); err == nil || err.Error() != "the relay's answer has no token" {
			t.Errorf("%q: %q, %v", answer, token, err)
		}
	}
}

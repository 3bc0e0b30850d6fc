// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"context"
	"crypto/sha256"
	_ "embed" // for the parts of the page
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/operator"
)

var (
	//go:embed page.html
	document string
	//go:embed page.css
	style string
	//go:embed page.js
	script string
)

const (
	// fresh is how long an answer serves others: several browsers cost no more than one.
	fresh = time.Second
	// answerTimeout covers an explanation that waits for an apply.
	answerTimeout = 2 * time.Minute
	// Any user of the host may ask for explanations, which read all rules: they take at most half of the time, after a credit.
	explainShare, explainCredit = 2, 10 * time.Second
)

// Options are what the page asks. All are required.
type Options struct {
	// Status returns the condition of the gateway.
	Status func(context.Context) operator.Status
	// Explain answers the query parameters source, destination and protocol with an explain.Answer.
	Explain http.HandlerFunc
}

// Page serves the page and the answers that it shows.
type Page struct {
	Options
	mux  *http.ServeMux
	html string
	// policy is the Content-Security-Policy.
	policy string

	// reading guards the last status. now is the clock of readings.
	reading sync.Mutex
	now     func() time.Time
	last    operator.Status
	read    time.Time

	// explaining is held while a question is answered.
	explaining sync.Mutex
	budget     budget.Budget
}

// New returns a Page.
func New(options Options) *Page {
	p := &Page{
		Options: options, mux: http.NewServeMux(), budget: budget.New(explainShare, explainCredit), now: time.Now,
		html: strings.NewReplacer("/* style */", style, "/* script */", script).Replace(document),
		policy: "default-src 'none'; script-src " + source(script) + "; style-src " + source(style) + "; connect-src 'self'; img-src data:; " +
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	}
	p.mux.HandleFunc("GET /{$}", p.serveHTML)
	p.mux.HandleFunc("GET /api/status", p.serveStatus)
	p.mux.HandleFunc("GET /api/explain", p.serveExplain)
	return p
}

// source returns an inline script or style as a source of a Content-Security-Policy.
func source(inline string) string {
	sum := sha256.Sum256([]byte(inline))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// ServeHTTP implements http.Handler. It serves programs on this host alone, also if the listener has other addresses: the
// connection must be between two loopback addresses. The name of the host in the request must be one of loopback. Otherwise, the
// page of an attacker could ask under its own name, once that resolves to 127.0.0.1 (DNS rebinding).
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	switch {
	case !stays(r):
		http.Error(w, "this page is only for browsers on the host itself: ssh -L 9470:127.0.0.1:9470 HOST, then open http://127.0.0.1:9470/", http.StatusForbidden)
	case !isLoopback(r.Host):
		http.Error(w, fmt.Sprintf("host %q: want 127.0.0.1, [::1] or localhost", r.Host), http.StatusMisdirectedRequest)
	default:
		p.mux.ServeHTTP(w, r)
	}
}

// stays reports whether the connection begins and ends on this host.
func stays(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && isLoopback(local.String()) && isLoopback(r.RemoteAddr)
}

// isLoopback reports whether HOST or HOST:PORT is an address of loopback or localhost.
func isLoopback(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	address, err := netip.ParseAddr(name)
	return err == nil && address.Unmap().IsLoopback() || strings.EqualFold(name, "localhost")
}

func (p *Page) serveHTML(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", p.policy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	_, _ = w.Write([]byte(p.html)) // the browser has gone
}

// fromPage reports whether a request comes from this page or from no page. Others cannot read the answers, but their images and
// scripts could cause the work.
func fromPage(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return true
	}
	http.Error(w, "only the page of this host may ask", http.StatusForbidden)
	return false
}

func (p *Page) serveStatus(w http.ResponseWriter, r *http.Request) {
	if !fromPage(w, r) {
		return
	}
	query, err := parseQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status, at := p.status(r.Context())
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(newView(status, query, at)) // the browser has gone
}

// status returns the condition of the gateway, and when it was read.
func (p *Page) status(ctx context.Context) (operator.Status, time.Time) {
	p.reading.Lock()
	defer p.reading.Unlock()
	if now := p.now(); now.Sub(p.read) >= fresh {
		p.last, p.read = p.Status(context.WithoutCancel(ctx)), now
	}
	return p.last, p.read
}

func (p *Page) serveExplain(w http.ResponseWriter, r *http.Request) {
	if !fromPage(w, r) {
		return
	}
	if !p.explaining.TryLock() {
		http.Error(w, "another question is being answered: ask again in a moment", http.StatusTooManyRequests)
		return
	}
	defer p.explaining.Unlock()
	began := time.Now()
	if !p.budget.Allows(began) {
		wait := p.budget.Next().Sub(began).Round(time.Second) + time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
		http.Error(w, fmt.Sprintf("too many questions: ask again in %s", wait), http.StatusTooManyRequests)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(began.Add(answerTimeout)) // without it, a long answer is cut
	p.Explain(w, r)
	now := time.Now()
	p.budget.Spend(now, now.Sub(began))
}

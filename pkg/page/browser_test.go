// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// pollInterval is the time that passes between two polls.
const pollInterval = 5 * time.Second

func TestMain(m *testing.M) { testenv.Main(m) }

// began is when the clock of the tests starts.
var began = time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)

// world is a gateway whose status changes with each reading.
func world(reading int64) operator.Status {
	now := began.Add(time.Duration(reading) * pollInterval)
	of := status()
	of.State, of.Missing = operator.Degraded, []string{"source lost since 2026-11-30T10:00:00Z: mappings: 10.10.0.12:8443: connection refused"}
	of.Source = operator.Source{
		Origin: "relay https://10.10.0.11:8443, https://10.10.0.12:8443", LastContact: now.Add(-25 * time.Second), CredentialEnds: now.Add(41 * 24 * time.Hour),
		Problem: "lost since 2026-11-30T10:00:00Z: mappings: 10.10.0.12:8443: connection refused",
		Servers: []operator.RelayServer{{Name: "10.10.0.11:8443", Failures: 14}, {Name: "10.10.0.12:8443", InUse: true, Failures: 3}},
	}
	of.Uplinks = []operator.Uplink{
		{Link: "eth1", Number: 1, Up: true, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:1::10")}, Gateways: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
		{Link: "eth2", Number: 2},
	}
	of.Findings = []operator.Finding{{Reason: "LinkDown", Field: "uplinks[1].interface", Message: "eth2 is down"}}
	names := strings.Fields("shop/db shop/web shop/metrics game/lobby game/match mail/smtp mail/imap dns/resolver vpn/wireguard log/syslog media/rtp ci/ssh")
	of.Mappings = nil
	for i, name := range names {
		namespace, name, _ := strings.Cut(name, "/")
		m := operator.Mapping{Namespace: namespace, Name: name, Service: namespace + "/" + name, Ready: true, Frontends: []string{fmt.Sprintf("198.51.100.10:%d/tcp", 5432+i)}}
		wave := 600e3 * (1.2 + math.Sin(float64(reading)/4+float64(i)))
		m.Traffic = &operator.Traffic{
			Open: 3*i + int(reading%7), Connections: uint64(1000*i) + uint64(reading), BytesFromClients: uint64(reading) * 20000,
			BytesToClients: 40e6*uint64(i) + uint64(float64(reading)*4e6+wave*12), Dropped: ptr.To(uint64(i * 3)), Rejected: ptr.To[uint64](0),
		}
		of.Mappings = append(of.Mappings, m)
	}
	of.Mappings[1].Frontends = append(of.Mappings[1].Frontends, "[2001:db8:1::10]:443/tcp", "198.51.100.10:443/tcp", "198.51.100.10:80/tcp", "198.51.100.10:8080/tcp")
	of.Mappings[4].Ready = false
	of.Mappings[4].Findings = []operator.Finding{{Reason: "NoReadyEndpoints", Field: "spec.serviceName", Message: "Service game/match has no ready endpoint: connections are rejected"}}
	of.Mappings[6] = operator.Mapping{Namespace: "mail", Name: "imap", Service: "mail/imap", Elsewhere: true,
		Findings: []operator.Finding{{Reason: "AddressNotOnHost", Message: "203.0.113.9 is on another gateway, or on none"}}}
	of.Mappings[10].Frontends = []string{"198.51.100.10:20000-20999/udp"}
	slices.SortFunc(of.Mappings, func(a, b operator.Mapping) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return of
}

// attack is a text that would run a script if anything put it into the page as HTML.
const attack = `<img src=x onerror="document.title='attacked'"><script>document.title='attacked'</script>`

// serve serves a page on loopback in the network namespace of the tests, and returns its URL.
func serve(t *testing.T, read func() operator.Status) string {
	t.Helper()
	p := newPage(operator.Status{})
	p.Status = func(context.Context) operator.Status { return read() }
	var readings atomic.Int64
	p.now = func() time.Time { return began.Add(time.Duration(readings.Add(1)) * pollInterval) }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: p}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving: %v", err)
		}
	})
	return "http://" + listener.Addr().String() + "/"
}

// TestInABrowser uses the page in Chromium as an operator does.
func TestInABrowser(t *testing.T) {
	b := startBrowser(t)
	for name, test := range map[string]func(*testing.T, *browser){
		"by hand": testByHand, "texts stay texts": testTexts, "10,000 ports": testTenThousandPorts, "a pair": testPair,
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			test(t, b)
		})
	}
	b.t = t
}

// testPair expects both boxes of a pair, and nothing of it without one.
func testPair(t *testing.T, b *browser) {
	var pair atomic.Pointer[ha.Status]
	url := serve(t, func() operator.Status {
		s := status()
		s.Pair = pair.Load()
		return s
	})
	b.open(url, 1280, "light")
	b.await(`document.querySelector("#instance").textContent === "gateway-1" && document.querySelector("#pair-card").hidden`)
	box := ha.Facts{Instance: "<b>gateway-2</b>", Role: ha.Notified{Role: ha.Primary}, Healthy: true}
	pair.Store(&ha.Status{Own: ha.Facts{Role: ha.Notified{Role: ha.Fault}, Missed: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Healthy: true}, Peer: &box, Differences: []string{"uplinks differ"}})
	b.open(url, 1280, "light")
	b.await(`[...document.querySelectorAll("#pair li")].map((e) => e.textContent).join("|") === "this gatewayfault, 198.51.100.1 does not answer|<b>gateway-2</b>primary|differsuplinks differ"`)
}

// testByHand uses the page on a telephone and a desktop, dark and light.
func testByHand(t *testing.T, b *browser) {
	var reading atomic.Int64
	url := serve(t, func() operator.Status { return world(reading.Add(1)) })
	for _, width := range []int{390, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			b.open(url, width, scheme)
			// Time passes faster than for an operator: with each poll.
			evaluate[bool](b, `(async () => { for (let i = 0; i < 3; i++) await poll(); return true })()`)
			b.fill("source-input", "203.0.113.7")
			b.fill("destination-input", "198.51.100.10:5432")
			evaluate[bool](b, `document.querySelector("#explain button").click() ?? true`)
			b.await(`document.querySelector("#answer .sentence")?.textContent.startsWith("203.0.113.7 reaches 198.51.100.10:5432/tcp")`)
			checkLayout(t, b, width, scheme)
		}
	}
	// A poll between two readings of the kernel is no pause in the traffic.
	if rates := evaluate[string](b, `[[0, 1000], [500, 2000], [500, 2000], [1500, 4000]].map(([bytes, read]) => record("a/b", {bytesFromClients: bytes, bytesToClients: 0}, read)).at(-1).join(" ")`); rates != "500 500" {
		t.Errorf("the rates are %s, want 500 500", rates)
	}
	checkSearch(t, b)
	checkKeyboard(t, b)
	if len(b.Complaints) > 0 {
		t.Errorf("the page complains: %s", strings.Join(b.Complaints, "\n"))
	}
}

// checkLayout expects that nothing is wider than the window, that texts have enough contrast, and that the colours follow the scheme.
func checkLayout(t *testing.T, b *browser, width int, scheme string) {
	t.Helper()
	if got := evaluate[[]int](b, "[document.documentElement.scrollWidth, innerWidth]"); got[0] > got[1] || got[1] != width {
		t.Errorf("%d, %s: the page is %d wide in a window of %d", width, scheme, got[0], got[1])
	}
	if wide := evaluate[[]string](b, `[...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(e.closest("thead") ?? e).position != "absolute").map((e) => e.outerHTML.slice(0, 80))`); len(wide) > 0 {
		t.Errorf("%d, %s: outside of the window: %s", width, scheme, wide)
	}
	// WCAG 2.2, 1.4.3: 4.5 for small texts.
	if low := evaluate[[]string](b, `(() => {
		const parse = (c) => c.match(/[\d.]+/g).map(Number);
		const luminance = (c) => parse(c).slice(0, 3).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 }).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
		const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (parse(c)[3] !== 0) return c } return "rgb(255, 255, 255)" };
		return [...document.querySelectorAll("body *")].filter((e) => [...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim()) && e.offsetParent && !["SCRIPT", "STYLE", "OPTION"].includes(e.tagName) && !e.disabled)
			.map((e) => { const [x, y] = [luminance(getComputedStyle(e).color), luminance(behind(e))]; return [(Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05), e] })
			.filter(([ratio]) => ratio < 4.5).map(([ratio, e]) => ratio.toFixed(2) + " " + e.outerHTML.slice(0, 60)) })()`); len(low) > 0 {
		t.Errorf("%d, %s: too little contrast: %s", width, scheme, low)
	}
	picture, err := png.Decode(bytes.NewReader(b.screenshot("png")))
	if err != nil {
		t.Fatal(err)
	}
	if r, _, _, _ := picture.At(2, 2).RGBA(); (r > 0x8000) != (scheme == "light") {
		t.Errorf("%d: the background of %s is %x", width, scheme, r)
	}
}

func checkSearch(t *testing.T, b *browser) {
	t.Helper()
	shown := func() string {
		return evaluate[string](b, `[...document.querySelectorAll("#rows .name")].map((e) => e.textContent).join(" ")`)
	}
	b.fill("search", "no ready endpoint")
	b.await(`document.querySelectorAll("#rows tr").length == 1`)
	if got := shown(); got != "game/match" {
		t.Errorf("the search finds %s", got)
	}
	b.fill("search", "")
	b.fill("show", "elsewhere")
	b.await(`document.querySelector("#rows .tag").textContent == "elsewhere"`)
	if got := shown(); got != "mail/imap" {
		t.Errorf("those for another gateway are %s", got)
	}
	b.fill("show", "all")
	b.fill("search", "nothing has this")
	b.await(`document.querySelector("#found").textContent == "No Mapping matches."`)
	b.fill("search", "")
	b.await(`document.querySelectorAll("#rows tr").length == 12`)
	b.fill("source-input", "client")
	evaluate[bool](b, `document.querySelector("#explain button").click() ?? true`)
	b.await(`document.querySelector("#answer .bad")?.textContent == 'source "client": want an IP address such as 203.0.113.7'`)
	// The browser reports the status 400 of that answer.
	b.Complaints = nil
}

// checkKeyboard expects that each control has a name, that Tab reaches them, and that a poll does not take the focus away.
func checkKeyboard(t *testing.T, b *browser) {
	t.Helper()
	if nameless := evaluate[[]string](b, `[...document.querySelectorAll("input, select, button")].filter((e) => !(e.labels?.[0]?.textContent.trim() || e.textContent.trim())).map((e) => e.outerHTML)`); len(nameless) > 0 {
		t.Errorf("without a name: %s", nameless)
	}
	evaluate[bool](b, `document.querySelector("#rows button").focus() ?? true`)
	evaluate[bool](b, `poll().then(() => true)`)
	if !evaluate[bool](b, `document.activeElement == document.querySelector("#rows button") && document.activeElement.textContent != ""`) {
		t.Error("a poll takes the focus away")
	}
	for _, event := range []string{"rawKeyDown", "char", "keyUp"} {
		b.check(b.Call("Input.dispatchKeyEvent", map[string]any{"type": event, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}, nil))
	}
	b.await(`document.activeElement.id == "source-input" && document.querySelector("#destination-input").value == "198.51.100.10:5443"`)
}

// testTexts puts HTML into every text that an object can bring.
func testTexts(t *testing.T, b *browser) {
	b.open(serve(t, func() operator.Status {
		of := status()
		text, err := json.Marshal(of)
		if err != nil {
			t.Error(err)
		}
		// Each text of the status, except for those that are parsed.
		for _, value := range []string{"1.2.3", "gateway-1", "relay https://10.10.0.11:8443", "eth1", "game", "lobby", "shop", "db", "postgres", "AddressNotOnHost", "not here", "198.51.100.10:5432/tcp"} {
			text = bytes.ReplaceAll(text, []byte(`:"`+value+`"`), marshal(t, attack, ":"))
			text = bytes.ReplaceAll(text, []byte(`["`+value+`"]`), append(marshal(t, attack, "["), ']'))
		}
		if err := json.Unmarshal(text, &of); err != nil {
			t.Error(err)
		}
		of.Missing = []string{attack}
		of.Findings = []operator.Finding{{Reason: attack, Field: attack, Message: attack}}
		of.Source.Servers = []operator.RelayServer{{Name: attack}}
		return of
	}), 1280, "light")
	if n := evaluate[int](b, `document.body.innerText.split("<img src=x").length - 1`); n < 12 {
		t.Errorf("the text is shown %d times, want at least 12:\n%s", n, evaluate[string](b, "document.body.innerText"))
	}
	if evaluate[bool](b, `document.querySelectorAll("img, body script:not(:last-child)").length > 0 || document.title == "attacked"`) {
		t.Errorf("a text became HTML: %s", evaluate[string](b, "document.title + document.body.outerHTML"))
	}
	// Even a script that got into the page would not run, nor would HTML get in.
	if blocked := evaluate[string](b, `(() => { try { document.body.innerHTML = "<p>x"; return "not blocked" } catch (e) { return e.name } })()`); blocked != "TypeError" {
		t.Errorf("innerHTML: %s", blocked)
	}
}

func marshal(t *testing.T, value, before string) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Error(err)
	}
	return append([]byte(before), text...)
}

// testTenThousandPorts bounds what the browser has to show.
func testTenThousandPorts(t *testing.T, b *browser) {
	of := many(true)
	b.open(serve(t, func() operator.Status { return of }), 1280, "light")
	for _, step := range []struct{ do, found string }{
		{"true", "1 to 50 of 10,000"},
		{`document.querySelector("#next").click() ?? true`, "51 to 100 of 10,000"},
		{`document.querySelector("#previous").click() ?? true`, "1 to 50 of 10,000"},
	} {
		evaluate[bool](b, step.do)
		b.await(fmt.Sprintf(`document.querySelector("#found").textContent == %q`, step.found))
		if rows, nodes := evaluate[int](b, `document.querySelectorAll("#rows tr").length`), evaluate[int](b, `document.querySelectorAll("*").length`); rows != 50 || nodes > 2000 {
			t.Errorf("%s: %d rows and %d elements, want 50 and at most 2,000", step.found, rows, nodes)
		}
	}
	b.fill("search", "mapping-09999")
	b.await(`document.querySelector("#found").textContent == "1 to 1 of 1"`)
}

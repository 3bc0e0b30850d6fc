// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/relay/issuer"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// pair is a certificate and its key.
type pair [2][]byte

// newPair returns a self-signed certificate.
func newPair(t *testing.T, name string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

// folder is a directory with certificate files.
type folder struct {
	*testing.T
	path string
}

func (f folder) at(name string) string { return filepath.Join(f.path, name) }

func (f folder) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f folder) write(name string, content []byte) {
	f.Helper()
	f.must(os.WriteFile(f.at(name), content, 0o600))
}

// put writes a pair into a subfolder; "." is the folder itself.
func (f folder) put(below string, p pair) {
	f.Helper()
	f.must(os.MkdirAll(f.at(below), 0o700))
	f.write(filepath.Join(below, "tls.crt"), p[0])
	f.write(filepath.Join(below, "tls.key"), p[1])
}

// mount publishes a pair as the kubelet publishes a Secret: atomically, by a symlink next to the files.
func (f folder) mount(version string, p pair) {
	f.Helper()
	f.put(version, p)
	f.must(os.Symlink(version, f.at("..data_tmp")))
	f.must(os.Rename(f.at("..data_tmp"), f.at("..data")))
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), f.at(name)); err != nil && !os.IsExist(err) {
			f.Fatal(err)
		}
	}
}

func (f folder) follow() *followed[tls.Certificate] {
	f.Helper()
	files, err := follow(parsePair, f.at("tls.crt"), f.at("tls.key"))
	f.must(err)
	return files
}

func TestCertificatesAreReadAgain(t *testing.T) {
	before, after := newPair(t, "before"), newPair(t, "after")
	asFiles := func(f folder) { f.put(".", before) }
	later := func(f folder) { f.put(".", after) }
	for _, test := range []struct {
		name          string
		start, change func(folder)
		// spoils is the error that the change causes; end then repairs it.
		spoils string
		end    func(folder)
		// untold is set if no event reports the change.
		untold bool
	}{
		{name: "a new pair", start: asFiles, change: later},
		{name: "replaced files", start: asFiles, change: func(f folder) {
			f.put("next", after)
			f.must(os.Rename(f.at("next/tls.crt"), f.at("tls.crt")))
			f.must(os.Rename(f.at("next/tls.key"), f.at("tls.key")))
		}},
		{name: "a Secret", start: func(f folder) { f.mount("..1", before) }, change: func(f folder) { f.mount("..2", after) }},
		{name: "a Secret whose old content is removed", start: func(f folder) { f.mount("..1", before) }, change: func(f folder) {
			f.mount("..2", after)
			f.must(os.RemoveAll(f.at("..1")))
		}},
		{name: "links to another directory", untold: true, start: func(f folder) {
			f.put("elsewhere", before)
			f.must(os.Symlink("elsewhere/tls.crt", f.at("tls.crt")))
			f.must(os.Symlink("elsewhere/tls.key", f.at("tls.key")))
		}, change: func(f folder) { f.put("elsewhere", after) }},
		{name: "a certificate without its key yet", start: asFiles, change: func(f folder) { f.write("tls.crt", after[0]) },
			spoils: "does not match", end: func(f folder) { f.write("tls.key", after[1]) }},
		{name: "a key without its certificate yet", start: asFiles, change: func(f folder) { f.write("tls.key", after[1]) },
			spoils: "does not match", end: func(f folder) { f.write("tls.crt", after[0]) }},
		{name: "half a certificate", start: asFiles, change: func(f folder) { f.write("tls.crt", after[0][:len(after[0])/2]) },
			spoils: "failed to find any PEM data", end: later},
		{name: "an empty certificate", start: asFiles, change: func(f folder) { f.write("tls.crt", nil) },
			spoils: "failed to find any PEM data", end: later},
		{name: "an empty key", start: asFiles, change: func(f folder) { f.write("tls.key", nil) }, spoils: "failed to find any PEM data", end: later},
		{name: "certificate and key swapped", start: asFiles, change: func(f folder) { f.put(".", pair{after[1], after[0]}) },
			spoils: "may have been switched", end: later},
		{name: "malformed certificate", start: asFiles, change: func(f folder) {
			f.write("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("none")}))
		}, spoils: "x509: malformed certificate", end: later},
		{name: "no certificate", start: asFiles, change: func(f folder) { f.must(os.Remove(f.at("tls.crt"))) }, spoils: "no such file", end: later},
		{name: "a Secret with a bad pair", start: func(f folder) { f.mount("..1", before) },
			change: func(f folder) { f.mount("..2", pair{before[0], after[1]}) }, spoils: "does not match", end: func(f folder) { f.mount("..3", after) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := folder{t, t.TempDir()}
			test.start(f)
			files := f.follow()
			files.every = time.Hour
			if test.untold {
				files.every = 10 * time.Millisecond
			}
			log, hook := logtest.NewNullLogger()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); files.run(ctx, log) }()
			defer func() { cancel(); <-ended }()
			config := (&Config{ServingCert: files}).tlsConfig()
			shown := func() string {
				present, err := config.GetConfigForClient(nil)
				f.must(err)
				return present.Certificates[0].Leaf.Subject.CommonName
			}
			said := func(what string) (n int) {
				for _, e := range hook.AllEntries() {
					if line, err := e.String(); err == nil && strings.Contains(line, what) {
						n++
					}
				}
				return n
			}
			// An early event must not count as a change.
			time.Sleep(20 * time.Millisecond)
			if got := shown(); got != "before" {
				t.Fatalf("initial certificate is %q", got)
			}
			test.change(f)
			if test.spoils != "" {
				eventually(t, "the error to be logged", func() bool { return said(test.spoils) > 0 })
				if got := shown(); got != "before" {
					t.Errorf("certificate is %q", got)
				}
				test.end(f)
			}
			eventually(t, "the new certificate", func() bool { return shown() == "after" })
		})
	}
}

// TestBadCertificatesAreNamedOnce proves that an error is logged once, and again only if the files were good in between.
func TestBadCertificatesAreNamedOnce(t *testing.T) {
	good := newPair(t, "good")
	f := folder{t, t.TempDir()}
	f.put(".", good)
	files := f.follow()
	files.every = time.Millisecond
	log, hook := logtest.NewNullLogger()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); files.run(ctx, log) }()
	defer func() { cancel(); <-ended }()
	for round := 1; round <= 2; round++ {
		next := newPair(t, fmt.Sprint("good again ", round))
		f.must(os.Remove(f.at("tls.key")))
		said := 2*round - 1
		eventually(t, "the missing key to be logged", func() bool { return len(hook.AllEntries()) == said })
		f.write("tls.crt", next[0])
		time.Sleep(50 * time.Millisecond) // the files are read many times meanwhile
		if got := len(hook.AllEntries()); got != said {
			t.Fatalf("%d log entries, want %d", got, said)
		}
		f.write("next", next[1])
		f.must(os.Rename(f.at("next"), f.at("tls.key")))
		eventually(t, "the reload to be logged", func() bool { return len(hook.AllEntries()) == said+1 })
	}
}

// TestFailuresOfTheWatchAreLogged proves that the log names an error of a watch, and once that there is none.
func TestFailuresOfTheWatchAreLogged(t *testing.T) {
	for _, test := range []struct {
		name       string
		newWatcher func() (*fsnotify.Watcher, error)
		want       string
		once       bool
	}{
		{"an overflow", func() (*fsnotify.Watcher, error) {
			w, err := fsnotify.NewWatcher()
			if err == nil {
				w.Errors = make(chan error, 1)
				w.Errors <- fsnotify.ErrEventOverflow
			}
			return w, err
		}, "failed to watch certificates, reading again", false},
		{"no watches left", func() (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") },
			"cannot watch certificates, reading them at intervals", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := folder{t, t.TempDir()}
			f.put(".", newPair(t, "localhost"))
			files := f.follow()
			files.every = time.Millisecond
			rounds := 0
			files.newWatcher = func() (*fsnotify.Watcher, error) {
				rounds++
				return test.newWatcher()
			}
			if !test.once {
				files.every = time.Hour
			}
			log, hook := logtest.NewNullLogger()
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); files.run(ctx, log) }()
			logged := func() (n int) {
				for _, entry := range hook.AllEntries() {
					if entry.Message == test.want {
						n++
					}
				}
				return n
			}
			eventually(t, "the log line", func() bool { return logged() > 0 })
			if test.once {
				f.put(".", newPair(t, "another"))
				eventually(t, "another round", func() bool {
					return slices.ContainsFunc(hook.AllEntries(), func(e *logrus.Entry) bool { return e.Message == "reloaded certificates" })
				})
			}
			stop()
			<-done
			if n := logged(); test.once && n != 1 {
				t.Errorf("logged %d times in %d rounds, want once", n, rounds)
			}
		})
	}
}

func TestCertificatesAtTheStart(t *testing.T) {
	one, other := newPair(t, "one"), newPair(t, "other")
	for _, test := range []struct {
		name  string
		files map[string][]byte
		ca    string
		want  string
	}{
		{"a pair", map[string][]byte{"tls.crt": one[0], "tls.key": one[1]}, "", ""},
		{"a pair and authorities", map[string][]byte{"tls.crt": one[0], "tls.key": one[1], "ca": slices.Concat(one[0], other[0])}, "ca", ""},
		{"no certificate", map[string][]byte{"tls.key": one[1]}, "", "--tls-cert-file, --tls-private-key-file: open"},
		{"no key", map[string][]byte{"tls.crt": one[0]}, "", "--tls-cert-file, --tls-private-key-file: open"},
		{"the key of another certificate", map[string][]byte{"tls.crt": one[0], "tls.key": other[1]}, "",
			"--tls-cert-file, --tls-private-key-file: tls: private key does not match"},
		{"no authorities", map[string][]byte{"tls.crt": one[0], "tls.key": one[1]}, "ca", "--client-ca-file: open"},
		{"an empty file of authorities", map[string][]byte{"tls.crt": one[0], "tls.key": one[1], "ca": nil}, "ca",
			"--client-ca-file: data does not contain any valid"},
		{"a key instead of a CA certificate", map[string][]byte{"tls.crt": one[0], "tls.key": one[1], "ca": one[1]}, "ca",
			"--client-ca-file: data does not contain any valid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := folder{t, t.TempDir()}
			for name, content := range test.files {
				f.write(name, content)
			}
			o := &Options{TLSCertFile: f.at("tls.crt"), TLSKeyFile: f.at("tls.key")}
			if test.ca != "" {
				o.ClientCAFile = f.at(test.ca)
			}
			c := &Config{}
			err := o.readCertificates(c, nil)
			switch {
			case test.want != "":
				if err == nil || !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("error %v, want %s", err, test.want)
				}
			case err != nil:
				t.Error(err)
			case (c.ClientCA != nil) != (test.ca != ""):
				t.Errorf("authorities: %v", c.ClientCA)
			}
		})
	}
}

// TestTheEndOfTheCertificateIsAMetric reads the metric before there is a certificate, and after.
func TestTheEndOfTheCertificateIsAMetric(t *testing.T) {
	f := folder{t, t.TempDir()}
	f.put(".", newPair(t, "relay"))
	files, err := follow(parsePair, f.at("tls.crt"), f.at("tls.key"))
	f.must(err)
	waiting, err := issuer.New(issuer.Options{Name: "smartnat-relay.smartnat.svc", Now: time.Now})
	f.must(err)
	for name, test := range map[string]struct {
		certificate servingCertificate
		want        float64
	}{
		"files":                     {files, float64(files.get().Leaf.NotAfter.Unix())},
		"a Secret that is not read": {fromSecret{waiting}, 0},
	} {
		c := &Config{ServingCert: test.certificate, Cache: watchcache.New(watchcache.NewEpoch(), 1)}
		c.instrument()
		if got := c.count(t, "certificate_expiration_timestamp_seconds"); got != test.want || test.want < 0 {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

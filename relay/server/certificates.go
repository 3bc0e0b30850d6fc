// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
	"k8s.io/client-go/util/cert"

	"github.com/smartnat/smartnat/relay/issuer"
)

const (
	// rereadEvery is the interval at which files are read if no event reports a change: they may be links to another
	// directory, and inotify watches may be exhausted.
	rereadEvery = time.Minute
	// writing is the time that several files may take to change together.
	writing = 100 * time.Millisecond
)

// followed holds the parsed content of files and reads them again when they change. Content that does not parse never
// replaces content that did. k8s.io/apiserver's dynamiccertificates does the same for certificates, but it imports
// client-go/kubernetes and informers, which load all kinds of Kubernetes.
type followed[T any] struct {
	files []string
	parse func(contents [][]byte) (*T, error)
	every time.Duration

	current  atomic.Pointer[T]
	contents [][]byte
	// complaint is the error of the last read. It is logged once.
	complaint string
	// unwatched is set while a directory cannot be watched.
	unwatched  bool
	newWatcher func() (*fsnotify.Watcher, error)
}

func follow[T any](parse func(contents [][]byte) (*T, error), files ...string) (*followed[T], error) {
	f := &followed[T]{files: files, parse: parse, every: rereadEvery, newWatcher: fsnotify.NewWatcher}
	_, err := f.read()
	return f, err
}

// get returns the last content that parsed.
func (f *followed[T]) get() *T { return f.current.Load() }

// read reports whether it stored new content.
func (f *followed[T]) read() (bool, error) {
	var contents [][]byte
	for _, name := range f.files {
		content, err := os.ReadFile(name)
		if err != nil {
			return false, err
		}
		contents = append(contents, content)
	}
	if f.contents != nil && slices.EqualFunc(contents, f.contents, bytes.Equal) {
		return false, nil
	}
	value, err := f.parse(contents)
	if err != nil {
		return false, err
	}
	f.contents = contents
	f.current.Store(value)
	return true, nil
}

// run reads the files again whenever they change, until ctx ends, and logs each distinct error once.
func (f *followed[T]) run(ctx context.Context, log logrus.FieldLogger) {
	log = log.WithField("files", f.files)
	for ctx.Err() == nil {
		// Each round watches before it reads, so that it misses no change, and with a new watch, so that it does not
		// depend on one that broke.
		changed, failed, stop := f.watchDirectories(log)
		f.reload(log)
		again := time.NewTimer(f.every)
		select {
		case <-ctx.Done():
		case <-again.C:
		case <-changed:
			pause(ctx, writing)
		case err := <-failed:
			// Usually an overflow of the event queue. Reading again finds all changes.
			log.WithError(err).Warn("failed to watch certificates, reading again")
			pause(ctx, writing)
		}
		again.Stop()
		stop()
	}
}

// reload reads the files and logs the result.
func (f *followed[T]) reload(log logrus.FieldLogger) {
	taken, err := f.read()
	switch {
	case err != nil && f.complaint != err.Error():
		f.complaint = err.Error()
		log.WithError(err).Warn("failed to reload certificates, keeping the current ones")
	case err == nil:
		if taken {
			log.Info("reloaded certificates")
		}
		f.complaint = ""
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// watchDirectories sends an event when the directory of a file changes, and the errors of the watch. In a Secret volume the
// files do not change; the kubelet swaps a symlink next to them. If a directory cannot be watched, it logs that once: the
// files are still read at the interval of f.
func (f *followed[T]) watchDirectories(log logrus.FieldLogger) (changed <-chan fsnotify.Event, failed <-chan error, stop func()) {
	w, err := f.newWatcher()
	if err == nil {
		changed, failed, stop = w.Events, w.Errors, func() { _ = w.Close() }
		for _, name := range f.files {
			err = errors.Join(err, w.Add(filepath.Dir(name)))
		}
	} else {
		stop = func() {}
	}
	if err != nil && !f.unwatched {
		log.WithError(err).WithField("interval", f.every.String()).Warn("cannot watch certificates, reading them at intervals")
	}
	f.unwatched = err != nil
	return changed, failed, stop
}

// parsePair parses a certificate with its chain, and its key.
func parsePair(contents [][]byte) (*tls.Certificate, error) {
	if len(contents) != 2 {
		return nil, errors.New("need a certificate and a key")
	}
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// parseAuthorities parses the CA certificates that client certificates are verified with.
func parseAuthorities(contents [][]byte) (*x509.VerifyOptions, error) {
	roots, err := cert.NewPoolFromBytes(bytes.Join(contents, []byte("\n")))
	if err != nil {
		return nil, err
	}
	return &x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, nil
}

// servingCertificate is the certificate of handshakes. get never returns nil; ready reports whether clients can accept it.
type servingCertificate interface {
	get() *tls.Certificate
	ready() bool
	run(ctx context.Context, log logrus.FieldLogger)
}

// ready is true because a followed has content from the start.
func (f *followed[T]) ready() bool { return true }

// fromSecret is the certificate in a Secret of the cluster.
type fromSecret struct{ source *issuer.Source }

func (s fromSecret) get() *tls.Certificate                           { return s.source.Certificate() }
func (s fromSecret) ready() bool                                     { return s.source.Ready() }
func (s fromSecret) run(ctx context.Context, log logrus.FieldLogger) { s.source.Run(ctx, log) }

func (o *Options) readCertificates(c *Config, secrets issuer.Secrets) (err error) {
	if o.TLSSecret != "" {
		source, err := issuer.New(issuer.Options{
			Secrets: secrets, Secret: o.TLSSecret, Issue: o.IssueCertificate, Now: time.Now,
			Name: "smartnat-relay." + o.Status.Namespace + ".svc",
		})
		if err != nil {
			return err
		}
		c.ServingCert = fromSecret{source}
	} else {
		files, err := follow(parsePair, o.TLSCertFile, o.TLSKeyFile)
		if err != nil {
			return fmt.Errorf("--tls-cert-file, --tls-private-key-file: %w", err)
		}
		c.ServingCert = files
	}
	if o.ClientCAFile == "" {
		return nil
	}
	if c.ClientCA, err = follow(parseAuthorities, o.ClientCAFile); err != nil {
		return fmt.Errorf("--client-ca-file: %w", err)
	}
	return nil
}

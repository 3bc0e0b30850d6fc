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
)

const (
	// rereadEvery is how often files are read where nothing tells that they changed: they may be links to elsewhere, and the
	// kernel may have no more room for watches.
	rereadEvery = time.Minute
	// writing is how long several files may take to change together.
	writing = 100 * time.Millisecond
)

// followed is what files say, read again when they change. What makes no sense never takes the place of what did.
type followed[T any] struct {
	files []string
	parse func(contents [][]byte) (*T, error)
	every time.Duration

	current  atomic.Pointer[T]
	contents [][]byte
	// complaint is what was wrong with the files when they were last read.
	complaint string
}

func follow[T any](parse func(contents [][]byte) (*T, error), files ...string) (*followed[T], error) {
	f := &followed[T]{files: files, parse: parse, every: rereadEvery}
	_, err := f.read()
	return f, err
}

// get returns what the files said when they last made sense.
func (f *followed[T]) get() *T { return f.current.Load() }

// read reports whether something new was taken over.
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

// run reads the files again until ctx ends, and says once of each thing that is wrong with them.
func (f *followed[T]) run(ctx context.Context, log logrus.FieldLogger) {
	log = log.WithField("files", f.files)
	for ctx.Err() == nil {
		// The watch is there before the files are read, and a new one each time, so that no change is missed, and none that
		// broke is relied upon.
		changed, stop := watchDirectories(f.files)
		taken, err := f.read()
		switch {
		case err != nil && f.complaint != err.Error():
			f.complaint = err.Error()
			log.WithError(err).Warn("certificates could not be read again, those that were read before stay in use")
		case err == nil:
			if taken {
				log.Info("certificates were read again")
			}
			f.complaint = ""
		}
		again := time.NewTimer(f.every)
		select {
		case <-ctx.Done():
		case <-again.C:
		case <-changed:
			pause(ctx, writing)
		}
		again.Stop()
		stop()
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

// watchDirectories tells when something changes where files are: in the mounts of Kubernetes it is not the files that change
// but a link beside them. Where that cannot be watched, it never tells.
func watchDirectories(files []string) (changed <-chan fsnotify.Event, stop func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, func() {}
	}
	for _, name := range files {
		_ = w.Add(filepath.Dir(name)) // the files are read from time to time all the same
	}
	return w.Events, func() { _ = w.Close() }
}

// parsePair reads a certificate with its chain, and its key.
func parsePair(contents [][]byte) (*tls.Certificate, error) {
	if len(contents) != 2 {
		return nil, errors.New("a pair is a certificate and a key")
	}
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// parseAuthorities reads those whose client certificates are accepted.
func parseAuthorities(contents [][]byte) (*x509.VerifyOptions, error) {
	roots, err := cert.NewPoolFromBytes(bytes.Join(contents, []byte("\n")))
	if err != nil {
		return nil, err
	}
	return &x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, nil
}

func (o *Options) readCertificates(c *Config) (err error) {
	if c.ServingCert, err = follow(parsePair, o.TLSCertFile, o.TLSKeyFile); err != nil {
		return fmt.Errorf("--tls-cert-file, --tls-private-key-file: %w", err)
	}
	if o.ClientCAFile == "" {
		return nil
	}
	if c.ClientCA, err = follow(parseAuthorities, o.ClientCAFile); err != nil {
		return fmt.Errorf("--client-ca-file: %w", err)
	}
	return nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// digestAnnotation marks a Secret that the relay wrote, by the SHA-256 of its content. If an operator or another program changed
// the content, the digest differs, and the Secret is theirs.
const digestAnnotation = "smartnat.aureacentral.com/issued-by-relay"

const (
	lookEvery  = time.Minute
	retryEvery = 5 * time.Second
	// attempts bounds how often Sync begins again because another replica wrote first.
	attempts = 5
)

// Secrets reads and writes the Secrets of a namespace.
type Secrets interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*corev1.Secret, error)
	Update(ctx context.Context, secret *corev1.Secret, options metav1.UpdateOptions) (*corev1.Secret, error)
}

// Options of a Source.
type Options struct {
	Secrets Secrets
	// Secret is the name of the Secret, which must exist: the right to create Secrets cannot be limited to a name, and would let a
	// stolen relay create one with the token of another ServiceAccount and read it.
	Secret string
	// Name is the DNS name of the certificate.
	Name string
	// Issue makes the Source fill the Secret if it is empty, and renew what it wrote.
	Issue bool
	Now   func() time.Time
}

// Source has the serving certificate of a relay.
type Source struct {
	Options
	current   atomic.Pointer[tls.Certificate]
	ready     atomic.Bool
	shown     [sha256.Size]byte // the digest of current
	complaint string            // the last error that was logged
}

// New returns a Source. Until the first Sync its certificate is one that no client accepts: probes get answers, and clients
// wait.
func New(options Options) (*Source, error) {
	s := &Source{Options: options}
	content, _, err := Renew(nil, options.Name, options.Now())
	if err != nil {
		return nil, err
	}
	pair, err := pairOf(content)
	if err != nil {
		return nil, err
	}
	s.current.Store(pair)
	return s, nil
}

// Certificate returns the current certificate.
func (s *Source) Certificate() *tls.Certificate { return s.current.Load() }

// Ready reports whether Certificate is that of the Secret.
func (s *Source) Ready() bool { return s.ready.Load() }

// Run keeps the certificate current until ctx ends.
func (s *Source) Run(ctx context.Context, log logrus.FieldLogger) {
	log = log.WithField("secret", s.Secret)
	for {
		again := lookEvery
		if err := s.look(ctx, log); err != nil {
			again = retryEvery
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// look calls Sync and logs a change, and each distinct error once.
func (s *Source) look(ctx context.Context, log logrus.FieldLogger) error {
	before := s.shown
	reason, err := s.Sync(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
	case err != nil && s.complaint != err.Error():
		s.complaint = err.Error()
		log.WithError(err).Warn("failed to get the serving certificate, will retry")
	case err == nil:
		s.complaint = ""
		if reason != "" {
			log.WithField("reason", reason).Info("issued serving certificate")
		}
		if s.shown != before {
			log.WithField("ends", s.Certificate().Leaf.NotAfter.UTC().Format(time.RFC3339)).Info("loaded serving certificate")
		}
	}
	return err
}

// Sync reads the Secret, fills or renews it if that is due, and takes its certificate. It returns the reason if it wrote the
// Secret. Several replicas may call it at the same time: the API server accepts one write, and the others read it.
func (s *Source) Sync(ctx context.Context) (reason string, err error) {
	for range attempts {
		reason, err = s.sync(ctx)
		if !apierrors.IsConflict(err) {
			return reason, err
		}
	}
	return reason, err
}

func (s *Source) sync(ctx context.Context) (reason string, err error) {
	secret, err := s.Secrets.Get(ctx, s.Secret, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && s.Issue:
		return "", fmt.Errorf("the Secret %s does not exist: apply the manifests of the relay again, which contain it empty: %w", s.Secret, err)
	case err != nil:
		return "", fmt.Errorf("reading the Secret %s: %w", s.Secret, err)
	}
	empty := len(secret.Data) == 0
	if !empty {
		if err := s.take(secret.Data); err != nil {
			return "", err
		}
	}
	if s.Issue && (empty || secret.Annotations[digestAnnotation] == digestText(secret.Data)) {
		if reason, secret, err = s.renew(ctx, secret); err != nil {
			return "", err
		}
	}
	return reason, s.take(secret.Data)
}

// take makes the content of the Secret current.
func (s *Source) take(content map[string][]byte) error {
	digest := digestOf(content)
	if s.Ready() && digest == s.shown {
		return nil
	}
	pair, err := pairOf(content)
	if err != nil {
		return fmt.Errorf("the Secret %s: %w", s.Secret, err)
	}
	s.shown = digest
	s.current.Store(pair)
	s.ready.Store(true)
	return nil
}

// renew writes the Secret if something in it is due. The write fails if the Secret has changed since it was read.
func (s *Source) renew(ctx context.Context, secret *corev1.Secret) (string, *corev1.Secret, error) {
	content, reason, err := Renew(secret.Data, s.Name, s.Now())
	if err != nil || reason == "" {
		return "", secret, err
	}
	next := secret.DeepCopy()
	next.Data = content
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, digestAnnotation, digestText(content))
	written, err := s.Secrets.Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return "", nil, fmt.Errorf("updating the Secret %s: %w", s.Secret, err)
	}
	return reason, written, nil
}

// digestOf returns the SHA-256 of all keys and values with their lengths.
func digestOf(content map[string][]byte) (sum [sha256.Size]byte) {
	hash := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(content)) {
		for _, part := range [][]byte{[]byte(key), content[key]} {
			hash.Write([]byte(strconv.Itoa(len(part)) + ":"))
			hash.Write(part)
		}
	}
	hash.Sum(sum[:0])
	return sum
}

func digestText(content map[string][]byte) string {
	sum := digestOf(content)
	return hex.EncodeToString(sum[:])
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/smartnat/smartnat/pkg/atomicfile"
)

const (
	// look is how often the Keeper looks at the files and the clock.
	look = 10 * time.Second
	// Retries of a renewal back off between these.
	minRetry, maxRetry = time.Minute, time.Hour
	// maxToken bounds the size of a token.
	maxToken = 32 << 10
)

// Files are the token that an enrollment wrote, and the file in which the newest one is kept.
type Files struct{ Enrolled, Kept string }

// choice is the token to use, and the file that has it.
type choice struct {
	path, text string
	token      Token
	// err is why the token of the enrolled file cannot be kept.
	err error
}

// choose reads both files. It chooses the kept one, unless the enrolled one was not issued before it, is of another enrollment and was written after it,
// is still valid while the kept one is not, or is of another user or cluster. If only one of them can be read, it is that one.
func (f Files) choose(now time.Time) choice {
	kept, keptText, keptErr := read(f.Kept)
	token, text, err := read(f.Enrolled)
	if keptErr == nil && (errors.As(err, new(*fs.PathError)) ||
		err == nil && token.sameUser(kept) && (text == keptText || kept.newer(token) && !f.again(token, kept, now)) && (!kept.ended(now) || token.ended(now))) {
		return choice{path: f.Kept, text: keptText, token: kept}
	}
	return choice{path: f.Enrolled, text: text, token: token, err: err}
}

// again reports whether the enrolled file has a valid token of another enrollment than the kept one, and was written after it. It compares times
// of this host: those in the tokens are of API servers, whose clocks may differ.
func (f Files) again(enrolled, kept Token, now time.Time) bool {
	written, err := os.Stat(f.Enrolled)
	before, keptErr := os.Stat(f.Kept)
	return err == nil && keptErr == nil && enrolled.anotherEnrollment(kept) && !enrolled.ended(now) && written.ModTime().After(before.ModTime())
}

// Newest returns the file with the token to use now.
func (f Files) Newest(now time.Time) string { return f.choose(now).path }

// Prepare returns the file to use once Adopt has run: the kept one, or the enrolled one if nothing can be kept. It leaves the kept file as
// it is, for the config in use.
func (f Files) Prepare(now time.Time) (string, error) {
	c := f.choose(now)
	if c.path == f.Kept {
		return f.Kept, nil
	}
	if c.err != nil {
		return f.Enrolled, c.err
	}
	probe := f.Kept + ".probe"
	if err := write(probe, c.text); err != nil {
		return f.Enrolled, err
	}
	return f.Kept, os.Remove(probe)
}

// Adopt copies the enrolled token to the kept file if it is the one to use.
func (f Files) Adopt(now time.Time) error {
	_, _, err := f.adopt(now)
	return err
}

// adopt also returns the token to use, and whether the kept file has changed.
func (f Files) adopt(now time.Time) (token Token, changed bool, err error) {
	c := f.choose(now)
	if c.path == f.Kept || c.err != nil {
		return c.token, false, c.err
	}
	return c.token, true, write(f.Kept, c.text)
}

func read(path string) (Token, string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Token{}, "", fmt.Errorf("reading the token: %w", err)
	}
	token, err := Parse(string(content))
	if err != nil {
		return token, "", fmt.Errorf("%s: %w", path, err)
	}
	return token, strings.TrimSpace(string(content)), nil
}

func write(path, text string) error {
	if err := atomicfile.Write(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("keeping the token: %w", err)
	}
	return nil
}

// Request asks the relay for a token of a ServiceAccount, with the credential in use.
type Request func(ctx context.Context, namespace, account string) (token string, err error)

// Keeper keeps the kept file newer than the enrolled one, and renews the token in it.
type Keeper struct {
	Files
	Request Request
	Log     logrus.FieldLogger

	// received is when this process got the token that is kept, with that beginning.
	received time.Time
	begins   time.Time
	// retry is when to try again after failures.
	retry time.Time
	pause time.Duration
	// said is the last problem that was logged.
	said string
}

// Run renews the token until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		k.Step(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Step does what is due at a time.
func (k *Keeper) Step(ctx context.Context, now time.Time) {
	token, changed, err := k.adopt(now)
	if err != nil {
		k.problem("cannot keep the credential, not renewing it", err)
		return
	}
	if changed {
		k.retry, k.pause, k.said = time.Time{}, 0, ""
	}
	received := k.received
	if !token.Begins.Equal(k.begins) {
		received = time.Time{}
	}
	namespace, account, ok := token.account()
	if !ok || !token.due(now, received) || now.Before(k.retry) {
		return
	}
	next, err := k.renew(ctx, token, namespace, account)
	if err != nil && ctx.Err() == nil {
		k.pause = min(max(2*k.pause, minRetry), maxRetry)
		k.retry = now.Add(k.pause)
		k.problem(k.advice(err, token, account))
		return
	}
	if err == nil {
		k.received, k.begins = now, next.Begins
		k.retry, k.pause, k.said = time.Time{}, 0, ""
		k.Log.WithField("expires", next.Ends.UTC().Format(time.RFC3339)).Info("renewed the credential")
	}
}

// renew gets the next token and keeps it.
func (k *Keeper) renew(ctx context.Context, token Token, namespace, account string) (Token, error) {
	text, err := k.Request(ctx, namespace, account)
	if err != nil {
		return Token{}, err
	}
	next, err := Parse(text)
	switch {
	case len(text) > maxToken:
		return next, fmt.Errorf("the relay's answer has %d bytes: want a token", len(text))
	case err != nil:
		return next, fmt.Errorf("the relay's answer is %w", err)
	case next.Subject != token.Subject:
		return next, fmt.Errorf("the relay's answer is a token of %.100q, want one of %q", next.Subject, token.Subject)
	case next.Issuer != token.Issuer:
		return next, fmt.Errorf("the relay's answer is a token of the issuer %.100q, want one of %.100q: enroll this gateway again", next.Issuer, token.Issuer)
	case next.Begins.IsZero() || !next.Ends.After(next.Begins):
		return next, errors.New("the relay's answer is a token without an end")
	case next.Ends.Before(token.Ends) && !next.newer(token):
		return next, errors.New("the relay's answer is an older token")
	}
	return next, write(k.Kept, text)
}

// advice returns the log line about a renewal that failed.
func (k *Keeper) advice(err error, token Token, account string) (string, error) {
	again := fmt.Sprintf("run kubectl smartnat enroll %s, and smartnatd enroll with its output here", account)
	switch {
	case apierrors.IsUnauthorized(err):
		return "the relay refuses the credential", fmt.Errorf("it ended at %s or was revoked: %s", token.Ends.UTC().Format(time.RFC3339), again)
	case apierrors.IsMethodNotSupported(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		return "the relay does not renew the credential", fmt.Errorf("it ends at %s, before that %s: %w", token.Ends.UTC().Format(time.RFC3339), again, err)
	}
	return "cannot renew the credential, will retry", err
}

// problem logs a problem once, until it changes.
func (k *Keeper) problem(message string, err error) {
	if k.said == message {
		return
	}
	k.said = message
	log := k.Log.WithError(err)
	if errors.Is(err, fs.ErrNotExist) {
		log.Debug(message) // the check of the config's files reports it
		return
	}
	log.Warn(message)
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package credential keeps the token by which a gateway follows its relay: it takes a new one from an enrollment, asks the relay for the
// next one before it ends, and keeps it in a file of its own, so that the folder of the config can be read-only.
//
// Decisions (Token, due) are pure. The package reads and writes only the two files of a Keeper, and must not know what the token is good
// for.
package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// Token is what a JSON Web Token (RFC 7519) says about itself. Its signature is not verified; the server does that.
type Token struct {
	// Issuer is the cluster that made it.
	Issuer string
	// Subject is the user, such as system:serviceaccount:smartnat:gateway-1.
	Subject string
	// Secret is the UID of the Secret with which the token ends, or "". Another enrollment has another one.
	Secret string
	// Begins and Ends are zero if the token does not say.
	Begins, Ends time.Time
}

// Parse reads a token. Its error has nothing of it.
func Parse(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	const partsOfJWT = 3
	if len(parts) != partsOfJWT {
		return Token{}, errors.New("not a JSON Web Token: want three parts")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return Token{}, errors.New("not a JSON Web Token: its payload is not base64url")
	}
	var claims struct {
		Issuer   string  `json:"iss"`
		Subject  string  `json:"sub"`
		IssuedAt float64 `json:"iat"`
		Expires  float64 `json:"exp"`

		Kubernetes struct {
			Secret struct {
				UID string `json:"uid"`
			} `json:"secret"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return Token{}, errors.New("not a JSON Web Token: its payload has no claims")
	}
	at := func(seconds float64) time.Time {
		if seconds <= 0 {
			return time.Time{}
		}
		return time.Unix(int64(seconds), 0)
	}
	return Token{
		Issuer: claims.Issuer, Subject: claims.Subject, Secret: claims.Kubernetes.Secret.UID, Begins: at(claims.IssuedAt), Ends: at(claims.Expires),
	}, nil
}

// account returns the namespace and name of the ServiceAccount, or false for another subject.
func (t Token) account() (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(t.Subject, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.ContainsAny(namespace+name, ":/?#% ")
}

const (
	// enrolledLifetime is that of a token that only serves to get the first one.
	enrolledLifetime = time.Hour
	// maxAge and 4/5 of the lifetime are when kubelet renews tokens.
	maxAge = 24 * time.Hour
)

// due reports whether to ask for the next token. received is when this process got the token from the relay, or zero. From then on, the
// wall clock does not matter, which may be wrong.
func (t Token) due(now, received time.Time) bool {
	if t.Ends.IsZero() || t.Begins.IsZero() {
		return false
	}
	lifetime := t.Ends.Sub(t.Begins)
	age := min(maxAge, lifetime/5*4)
	if !received.IsZero() {
		return now.Sub(received) >= age
	}
	return lifetime <= enrolledLifetime || now.Before(t.Begins) || now.Sub(t.Begins) >= age
}

// newer reports whether t was issued after o.
func (t Token) newer(o Token) bool { return t.Begins.After(o.Begins) }

// sameUser reports whether both tokens are of the same user of the same cluster.
func (t Token) sameUser(o Token) bool { return t.Issuer == o.Issuer && t.Subject == o.Subject }

// anotherEnrollment reports whether t is of an enrollment that o is not of.
func (t Token) anotherEnrollment(o Token) bool { return t.Secret != "" && t.Secret != o.Secret }

// ended reports whether t is no longer valid.
func (t Token) ended(now time.Time) bool { return !t.Ends.IsZero() && !now.Before(t.Ends) }

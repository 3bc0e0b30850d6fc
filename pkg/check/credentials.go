// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/credential"
)

// A credential causes a warning from near before its end, or from a fifth of its lifetime if that is shorter: one that is
// renewed every hour must not cause constant warnings.
const (
	near      = 7 * 24 * time.Hour
	nearShare = 5
)

// Credential is a file that authenticates this gateway.
type Credential struct {
	// Key is the key in the config, Path the path of the file.
	Key, Path string
	Mode      fs.FileMode
	Content   []byte
	// Secret is set if a reader of the file can impersonate this gateway.
	Secret bool
}

// Credentials checks the permissions of the files, and the expiry of their content.
func Credentials(files []Credential, now time.Time) []Line {
	var lines []Line
	for _, f := range files {
		if hidden := hiddenBy(f.Path); hidden != "" {
			lines = append(lines, one(Warning, f.Key, "%s is below %s, which is hidden from the systemd unit (ProtectHome, PrivateTmp): move it to /etc/smartnat", f.Path, hidden)...)
		}
		if f.Secret && f.Mode.Perm()&0o077 != 0 {
			lines = append(lines, one(Warning, f.Key, "%s has mode %#o: other users of this host may read it; chmod 0600 %s", f.Path, f.Mode.Perm(), f.Path)...)
		}
		begins, ends := Lifetime(f.Content)
		if ends.IsZero() {
			continue
		}
		stamp := ends.UTC().Format(time.RFC3339)
		soon := near
		if !begins.IsZero() {
			soon = min(soon, ends.Sub(begins)/nearShare)
		}
		switch left := ends.Sub(now); {
		case left <= 0:
			lines = append(lines, one(Failed, f.Key, "%s expired at %s: renew it", f.Path, stamp)...)
		case left < soon:
			lines = append(lines, one(Warning, f.Key, "%s expires at %s, in %s: renew it", f.Path, stamp, left.Round(time.Minute))...)
		default:
			lines = append(lines, ok(f.Key, "valid until %s", stamp)...)
		}
	}
	return lines
}

// hiddenBy returns the parent folder of the path that the unit hides, or "".
func hiddenBy(path string) string {
	for _, folder := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		if strings.HasPrefix(path, folder+"/") {
			return folder
		}
	}
	return ""
}

// Lifetime returns the validity of a token, or of the first certificate, which is the client's own; zero if the content has none.
func Lifetime(content []byte) (begins, ends time.Time) {
	if block, _ := pem.Decode(content); block != nil {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}, time.Time{}
		}
		return certificate.NotBefore, certificate.NotAfter
	}
	return tokenLifetime(string(content))
}

// tokenLifetime reads the lifetime that a token states, or zero times.
func tokenLifetime(token string) (begins, ends time.Time) {
	t, err := credential.Parse(token)
	if err != nil {
		return time.Time{}, time.Time{}
	}
	return t.Begins, t.Ends
}

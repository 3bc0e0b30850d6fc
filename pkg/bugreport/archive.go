// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package bugreport

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// maxPart bounds a part of an archive, in bytes.
const maxPart = 32 << 20

// Archive is a tar.gz with one folder.
type Archive struct {
	folder  string
	at      time.Time
	secrets Secrets
	gzip    *gzip.Writer
	tar     *tar.Writer
	missing []string
	err     error
}

// NewArchive returns an Archive whose parts are in a folder and have a time. It removes the secrets.
func NewArchive(to io.Writer, folder string, at time.Time, secrets Secrets) *Archive {
	z := gzip.NewWriter(to)
	return &Archive{folder: folder, at: at, secrets: secrets, gzip: z, tar: tar.NewWriter(z)}
}

// Add adds a part. With an error, it notes that the part, or some of it, is missing.
func (a *Archive) Add(name string, content []byte, err error) {
	if len(content) > maxPart {
		content = content[:maxPart]
		err = errors.Join(err, fmt.Errorf("more than %d MiB", maxPart>>20))
	}
	if err != nil {
		a.missing = append(a.missing, fmt.Sprintf("%s: %s", name, strings.Join(strings.Fields(string(a.secrets.Remove([]byte(err.Error())))), " ")))
	}
	if len(content) > 0 || err == nil {
		a.write(name, a.secrets.Remove(content))
	}
}

func (a *Archive) write(name string, content []byte) {
	if a.err != nil {
		return
	}
	header := tar.Header{Name: path.Join(a.folder, name), Mode: 0o600, Size: int64(len(content)), ModTime: a.at, Typeflag: tar.TypeReg}
	if a.err = a.tar.WriteHeader(&header); a.err == nil {
		_, a.err = a.tar.Write(content)
	}
}

// Close ends the Archive, and returns what is missing, one line for each part. The last part says the same.
func (a *Archive) Close() ([]string, error) {
	text := "nothing is missing\n"
	if len(a.missing) > 0 {
		text = strings.Join(a.missing, "\n") + "\n"
	}
	a.write("missing.txt", []byte(text))
	if err := errors.Join(a.err, a.tar.Close(), a.gzip.Close()); err != nil {
		return a.missing, fmt.Errorf("writing the archive: %w", err)
	}
	return a.missing, nil
}

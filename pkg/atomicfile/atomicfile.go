// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces small files as a whole. It must not know what is in them.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file at a path, in a folder that exists. A reader sees the whole old or the whole new content, also after a
// crash. A symbolic link at the path is replaced and not followed.
func Write(path string, content []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

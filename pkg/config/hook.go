// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// maxLinks bounds the symbolic links on the way to a file, as the kernel does (path_resolution(7)).
const maxLinks = 40

// CheckHook reports why a program must not run as this user: another user could replace it. It is as strict as
// keepalived with its scripts (enable_script_security), and looks at each folder and link on the way too.
func CheckHook(program string) error {
	at, links := "/", 0
	todo := strings.Split(program, "/")
	if err := checkOwner(at); err != nil {
		return err
	}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at) // at holds no links
			continue
		}
		next := path.Join(at, name)
		if err := checkOwner(next); err != nil {
			return err
		}
		target, err := os.Readlink(next)
		switch {
		case errors.Is(err, syscall.EINVAL): // no link
			at = next
			continue
		case err != nil:
			return err
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%s: too many links", program)
		}
		if path.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode&0o100 == 0 {
		return fmt.Errorf("%s must be a program: a regular file that its owner may execute", at)
	}
	return nil
}

// checkOwner checks a file, folder or link.
func checkOwner(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	if !known {
		return fmt.Errorf("%s has no owner", name)
	}
	return ownerProblem(name, info.Mode(), int(owner.Uid), os.Geteuid())
}

// ownerProblem decides for a user. The own files of another user than root may run as that user.
func ownerProblem(name string, mode fs.FileMode, uid, user int) error {
	if uid != 0 && uid != user {
		return fmt.Errorf("%s belongs to user %d, who could replace the program: it must belong to root", name, uid)
	}
	// In a folder with the sticky bit, only owners replace their files. Modes of links mean nothing.
	if mode&fs.ModeSymlink != 0 || mode.IsDir() && mode&fs.ModeSticky != 0 {
		return nil
	}
	// The bits of the group are also the mask of an access control list (acl(5)), which may name any user.
	if mode&0o022 != 0 {
		return fmt.Errorf("%s is writable by others (mode %#o), who could replace the program: run 'chmod go-w %[1]s'", name, mode.Perm())
	}
	return nil
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOwnerOfHook covers owners that only root can give to a file.
func TestOwnerOfHook(t *testing.T) {
	const sticky = fs.ModeDir | fs.ModeSticky
	for name, test := range map[string]struct {
		mode      fs.FileMode
		uid, user int
		want      string
	}{
		"root's":                           {0o755, 0, 0, ""},
		"a group may write":                {0o770, 0, 0, "is writable by others (mode 0770)"},
		"all may write":                    {0o702, 0, 0, "is writable by others (mode 0702)"},
		"a user's":                         {0o700, 1000, 0, "belongs to user 1000"},
		"a user's own":                     {0o700, 1000, 1000, ""},
		"another user's":                   {0o700, 1001, 1000, "belongs to user 1001"},
		"a folder that all may write":      {fs.ModeDir | 0o777, 0, 0, "is writable by others (mode 0777)"},
		"such a folder, sticky":            {sticky | 0o777, 0, 0, ""},
		"a sticky folder of a user":        {sticky | 0o777, 1000, 0, "belongs to user 1000"},
		"a sticky file that all may write": {fs.ModeSticky | 0o777, 0, 0, "is writable by others"},
		"a link":                           {fs.ModeSymlink | 0o777, 0, 0, ""},
		"a user's link":                    {fs.ModeSymlink | 0o777, 1000, 0, "belongs to user 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			err := ownerProblem("/hook", test.mode, test.uid, test.user)
			if (err != nil) != (test.want != "") || err != nil && !strings.HasPrefix(err.Error(), "/hook "+test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestHookOnItsWay covers what can be wrong between the root and the program.
func TestHookOnItsWay(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(dir string) error
		path    string
		// want begins with the path below dir that is at fault.
		want string
	}{
		"a program":             {nil, "safe/hook", ""},
		"by a link":             {link("safe/hook", "link"), "link", ""},
		"by a link to a folder": {link("safe", "link"), "link/../safe/./hook", ""},
		"missing":               {nil, "safe/none", "safe/none: no such file"},
		"a folder":              {nil, "safe", "safe must be a program"},
		"not executable":        {mode("safe/hook", 0o600), "safe/hook", "safe/hook must be a program"},
		"writable":              {mode("safe/hook", 0o777), "safe/hook", "safe/hook is writable by others"},
		"a writable folder":     {mode("safe", 0o777), "safe/hook", "safe is writable by others (mode 0777)"},
		"a sticky folder":       {mode("safe", fs.ModeSticky|0o777), "safe/hook", ""},
		"a link in a writable folder": {
			both(both(mkdir("open"), link("../safe/hook", "open/link")), mode("open", 0o777)), "open/link", "open is writable by others",
		},
		"a link into a writable folder": {both(mode("safe", 0o777), link("safe/hook", "link")), "link", "safe is writable by others"},
		"links through a writable folder": {
			both(both(both(mkdir("open"), link("../safe/hook", "open/link")), mode("open", 0o777)), link("open/link", "link")), "link", "open is writable by others",
		},
		"a link to itself": {link("link", "link"), "link", "link: too many links"},
		"a pipe":           {link("/dev/null", "link"), "link", "/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "safe"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "safe/hook"), []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if test.prepare != nil {
				if err := test.prepare(dir); err != nil {
					t.Fatal(err)
				}
			}
			want := test.want
			if want != "" && !strings.HasPrefix(want, "/") {
				want = dir + "/" + want
			}
			err := CheckHook(dir + "/" + test.path)
			if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			cfg := Config{HA: HA{Hook: dir + "/" + test.path}}
			if files := cfg.CheckFiles(); (files != nil) != (want != "") || files != nil && files.Error() != "ha.hook: "+err.Error() {
				t.Errorf("CheckFiles: %v", files)
			}
		})
	}
}

func mkdir(name string) func(string) error {
	return func(dir string) error { return os.Mkdir(filepath.Join(dir, name), 0o755) }
}

func link(target, name string) func(string) error {
	return func(dir string) error { return os.Symlink(target, filepath.Join(dir, name)) }
}

func mode(name string, m fs.FileMode) func(string) error {
	return func(dir string) error { return os.Chmod(filepath.Join(dir, name), m) }
}

func both(first, second func(string) error) func(string) error {
	return func(dir string) error {
		if err := first(dir); err != nil {
			return err
		}
		return second(dir)
	}
}

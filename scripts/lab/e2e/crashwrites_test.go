// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// interception is the file that says how the next restore program kills smartnatd.
const interception = "/run/intercept"

// interceptor is the start of a script that kills its parent, smartnatd.
const interceptor = `if [ "$1" != --version ] && how=$(cat ` + interception + ` 2>/dev/null) && rm ` + interception + `; then
	case $how in
	before) kill -9 $PPID; exit 1;;
	torn) sed '/^COMMIT/,$d' | %[1]s "$@"; kill -9 $PPID; exit 1;;
	half) sed '/^COMMIT/q' | %[1]s "$@"; kill -9 $PPID; exit 1;;
	after) %[1]s "$@"; kill -9 $PPID; exit 1;;
	orphan) kill -9 $PPID; sleep 0.4;;
	esac
fi
`

// manners implements plane. The restore program kills smartnatd in the middle of a write.
func (iptables) manners() []manner {
	return []manner{
		{"before a write", killRestoring("before")},
		{"in a write that is torn", killRestoring("torn")},
		{"behind the first table of a write", killRestoring("half")},
		{"behind a write", killRestoring("after")},
		{"before a write that comes nevertheless, and late", killRestoring("orphan")},
	}
}

// prepareCrashes implements plane. It puts interceptor into the gateway's restore programs until the test ends.
func (iptables) prepareCrashes(ctx context.Context, t *testing.T, w *world) {
	t.Helper()
	gateway := w.Host(lab.Gateway)
	for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
		path, err := gateway.Exec(ctx, "sh", "-c", "command -v "+name)
		if err != nil {
			t.Fatal(err)
		}
		path = strings.TrimSpace(path)
		script, err := gateway.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first, last, found := strings.Cut(script, "exec ")
		if !found {
			t.Fatalf("%s is not the script that runs the real program:\n%s", path, script)
		}
		program, _, _ := strings.Cut(last, " ")
		if err := gateway.WriteFile(path, first+fmt.Sprintf(interceptor, program)+"exec "+last); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := gateway.WriteFile(path, script); err != nil {
				t.Error(err)
			}
		})
	}
}

// killRestoring makes the next restore program kill smartnatd, as how says.
func killRestoring(how string) func(context.Context, *world, *rand.Rand) error {
	return func(ctx context.Context, w *world, _ *rand.Rand) error {
		if err := w.Host(lab.Gateway).WriteFile(interception, how); err != nil {
			return err
		}
		select {
		case <-w.daemon.Done():
			return nil
		case <-time.After(patience):
			return fmt.Errorf("no restore program ran within %v of a change", patience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// manners implements plane. A transaction is all or nothing, and there is one for each family.
func (native) manners() []manner {
	return []manner{
		{"at the transaction of the first family", killAtTransaction(1)},
		{"at the transaction of the second family", killAtTransaction(2)},
	}
}

func (native) prepareCrashes(context.Context, *testing.T, *world) {}

// killAtTransaction kills smartnatd as soon as the kernel has executed its nth transaction.
func killAtTransaction(nth int) func(context.Context, *world, *rand.Rand) error {
	return func(_ context.Context, w *world, _ *rand.Rand) error {
		return errors.Join(w.Host(lab.Gateway).AwaitTransaction(nth, patience), w.daemon.Kill())
	}
}

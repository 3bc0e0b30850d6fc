// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestSetupStartsNoService installs a package whose postinst asks whether it may start a service, on a machine with and without an
// answer of the administrator's own, and with apt-get failing.
func TestSetupStartsNoService(t *testing.T) {
	testenv.RequireKernel(t)
	for name, test := range map[string]struct{ policy, fails, want string }{
		"an ordinary machine": {"", "", "may it start? 101\n--quiet disable tracker.service\nafter: none\n"},
		"a machine with a policy": {
			"#!/bin/sh\nexit 104\n", "", "may it start? 104\n--quiet disable tracker.service\nafter: #!/bin/sh exit 104\n"},
		"a failure": {"", "exit 1", "may it start? 101\nafter: none\n"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			tools, log := filepath.Join(folder, "tools"), filepath.Join(folder, "log")
			for _, sub := range []string{"tools", "upper", "work"} {
				if err := os.Mkdir(filepath.Join(folder, sub), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			program := func(name, script string) {
				write(t, filepath.Join(tools, name), "#!/bin/bash\n"+script+"\n")
				if err := os.Chmod(filepath.Join(tools, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			program("apt-get", `[[ $2 == install ]] || exit 0
/usr/sbin/policy-rc.d tracker start; echo "may it start? $?" >>`+log+"\n"+test.fails)
			program("dpkg", "printf '%s\\n' /usr/sbin/conntrack /usr/lib/systemd/system/tracker.service /lib/systemd/system/tracker@.service")
			program("systemctl", `echo "$*" >>`+log)
			write(t, filepath.Join(folder, "policy"), test.policy)
			// A copy of /usr/sbin that lacks a tool of the demo.
			inside := `set -e
mount -t tmpfs none "$1/upper"; mkdir "$1/upper/upper" "$1/upper/work"
mount -t overlay none -o "lowerdir=/usr/sbin,upperdir=$1/upper/upper,workdir=$1/upper/work" /usr/sbin
rm -f /usr/sbin/conntrack /usr/sbin/policy-rc.d
[[ ! -s $1/policy ]] || install -m 755 "$1/policy" /usr/sbin/policy-rc.d
bash setup.sh demo || true
echo "after: $(xargs </usr/sbin/policy-rc.d || echo none)" >>"$1/log"`
			cmd := exec.Command("unshare", "--mount", "bash", "-c", inside, "bash", folder)
			cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if diff := cmp.Diff(test.want, read(t, log)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

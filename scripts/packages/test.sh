#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Tests the packages of this machine's architecture in dist/: it checks their contents, and installs the deb, upgrades it over an
# edited config, removes and purges it on a copy of this machine's own root (a temporary overlay in a mount namespace). That needs
# root; without root, it checks only the contents, and says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

arch="$(go env GOARCH)"
rpm_arch="${arch/amd64/x86_64}"
rpm_arch="${rpm_arch/arm64/aarch64}"
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

passed=0
ok() {
	passed=$((passed + 1))
	echo "ok    packages: $1"
}
fail() {
	echo "FAIL  packages: $1" >&2
	exit 1
}
# same WHAT EXPECTED GOT
same() {
	[[ $2 == "$3" ]] || {
		diff <(echo "$2") <(echo "$3") >&2 || true
		fail "$1"
	}
	ok "$1"
}

newest() { # GLOB
	local file newest=''
	for file in $1; do
		[[ -n $newest && $newest -nt $file ]] || newest="$file"
	done
	[[ -e $newest ]] || fail "no $1: run make packages"
	echo "$newest"
}

contents() { # prints the files and folders of both kinds of package
	cat <<-'END'
		/etc/smartnat
		/etc/smartnat.yaml
		/usr/lib/sysctl.d/90-smartnat.conf
		/usr/lib/systemd/system/smartnat-boundary.service
		/usr/lib/systemd/system/smartnatd.service
		/usr/sbin/smartnatd
		/usr/share/bash-completion/completions/smartnatd
		/usr/share/doc/smartnat/README.md
		/usr/share/doc/smartnat/crd.yaml
		/usr/share/doc/smartnat/crd-portgrants.yaml
		/usr/share/doc/smartnat/gateway.md
		/usr/share/doc/smartnat/ha/aws
		/usr/share/doc/smartnat/ha/azure
		/usr/share/doc/smartnat/ha/gcp
		/usr/share/doc/smartnat/ha/hetzner
		/usr/share/doc/smartnat/monitoring/dashboard.json
		/usr/share/doc/smartnat/monitoring/prometheusrule.yaml
		/usr/share/doc/smartnat/monitoring/smartnat.rules.yaml
		/usr/share/doc/smartnat/smartnat.yaml
		/usr/share/doc/smartnat/troubleshooting.md
		/usr/share/fish/vendor_completions.d/smartnatd.fish
		/usr/share/man/man5/smartnat.yaml.5.gz
		/usr/share/man/man8/smartnatd.8.gz
	END
	dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/sbin/smartnatd >"$tmp/smartnatd"
	chmod +x "$tmp/smartnatd"
	# smartnatd has a man page for each command.
	local commands='/^Available Commands:/,/^$/s|^  \([a-z]*\) .*|'
	"$tmp/smartnatd" ha --help | sed -n "$commands/usr/share/man/man8/smartnatd-ha-\1.8.gz|p"
	"$tmp/smartnatd" --help | sed -n "$commands/usr/share/man/man8/smartnatd-\1.8.gz|p" | grep -v -e -help -e -completion
}

deb="$(newest "dist/smartnat_*_$arch.deb")"
rpm="$(newest "dist/smartnat-*.$rpm_arch.rpm")"

same "contents of the deb" \
	"$( (contents; echo /usr/share/doc/smartnat/copyright; echo /usr/share/zsh/vendor-completions/_smartnatd) | LC_ALL=C sort)" \
	"$(dpkg-deb --fsys-tarfile "$deb" | tar -t | sed -n 's|^\.||; /\/$/!p; s|^\(/etc/smartnat\)/$|\1|p' | LC_ALL=C sort -u)"
same "configuration files of the deb" /etc/smartnat.yaml "$(dpkg-deb --ctrl-tarfile "$deb" | tar -xO ./conffiles)"
same "contents of the rpm" \
	"$( (contents; echo /usr/share/doc/smartnat; echo /usr/share/doc/smartnat/ha; echo /usr/share/doc/smartnat/monitoring; echo /usr/share/licenses/smartnat; echo /usr/share/licenses/smartnat/LICENSE; echo /usr/share/zsh/site-functions/_smartnatd) | LC_ALL=C sort)" \
	"$(rpm -qpl --nosignature "$rpm" 2>/dev/null | LC_ALL=C sort)"
same "configuration files of the rpm" /etc/smartnat.yaml "$(rpm -qp --nosignature --configfiles "$rpm" 2>/dev/null)"
same "the rpm does not replace an edited config" "/etc/smartnat.yaml 17" \
	"$(rpm -qp --nosignature --queryformat '[%{FILENAMES} %{FILEFLAGS}\n]' "$rpm" 2>/dev/null | grep '^/etc/smartnat.yaml ')"

# A link within a document begins with #, and every other one with https:.
same "links of the packaged documents lead somewhere" "" \
	"$(dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/share/doc/smartnat/{README,gateway,troubleshooting}.md | grep -oE '\]\([^)]+\)' | grep -vE '^\]\((#|https://)')"
same "the rpm depends on nothing" "" \
	"$(rpm -qp --nosignature --requires "$rpm" 2>/dev/null | grep -v '^rpmlib(')"
same "the rpm recommends iptables" "(iptables-nft or iptables)" \
	"$(rpm -qp --nosignature --recommends "$rpm" 2>/dev/null | grep iptables)"
same "the deb depends on nothing, recommends iptables, and only suggests the programs of a pair" "Recommends: iptables, kmod
Suggests: keepalived, conntrackd" \
	"$(dpkg-deb --field "$deb" Depends Recommends Suggests)"
same "the rpm only suggests the programs of a pair" "conntrack-tools keepalived" \
	"$(rpm -qp --nosignature --suggests "$rpm" 2>/dev/null | sort | paste -sd ' ')"
same "the rpm does not recommend the programs of a pair" "" \
	"$(rpm -qp --nosignature --recommends "$rpm" 2>/dev/null | grep -E '^(keepalived|conntrack-tools)$')"
same "the rpm recommends the package of kernel modules on EL 10" "(kernel-modules-extra if kernel-core)" \
	"$(rpm -qp --nosignature --recommends "$rpm" 2>/dev/null | grep kernel)"

if ((EUID != 0)); then
	echo "SKIP  packages: installing needs root"
	exit 0
fi
if ! command -v dpkg >/dev/null || [[ ! -e /var/lib/dpkg/status ]]; then
	echo "SKIP  packages: installing the deb needs a Debian or Ubuntu"
	exit 0
fi

# Build it outside the namespace, where the build cache is.
echo "packages: building a later version for the upgrade"
VERSION=99.0.0 DIST="$tmp/later" scripts/packages/build.sh "$arch" >/dev/null
mkdir "$tmp/debs"
cp "$deb" "$tmp/debs/first.deb"
cp "$tmp"/later/*.deb "$tmp/debs/later.deb"
cp "$rpm" "$tmp/debs/first.rpm"
cp "$tmp"/later/*.rpm "$tmp/debs/later.rpm"

unshare --mount --pid --fork --kill-child bash -euo pipefail -s "$tmp" <<'INSIDE'
tmp="$1"
mount --make-rprivate /
mkdir "$tmp/fs"
mount -t tmpfs tmpfs "$tmp/fs"
mkdir "$tmp/fs/upper" "$tmp/fs/work" "$tmp/fs/root"
root="$tmp/fs/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$tmp/fs/upper,workdir=$tmp/fs/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
# Hide /run/systemd: the scripts of the package must see that no systemd runs here.
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cp "$tmp"/debs/* "$root/tmp/"

in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
ok() { echo "ok    packages: $1"; }
fail() { echo "FAIL  packages: $1" >&2; exit 1; }

# SmartNat may be installed on this machine.
in_root dpkg --purge smartnat >/dev/null 2>&1 || true

in_root dpkg -i /tmp/first.deb >/dev/null
in_root smartnatd version | grep -q '^smartnatd ' || fail "the program does not run"
in_root gunzip -c /usr/share/man/man5/smartnat.yaml.5.gz | grep -q '^\.TH "SMARTNAT.YAML" "5"' || fail "no smartnat.yaml(5)"
in_root bash -c '. /usr/share/bash-completion/completions/smartnatd && complete -p smartnatd' >/dev/null || fail "no completion for bash"
ok "the deb installs and its program runs"

in_root systemd-analyze verify /usr/lib/systemd/system/smartnatd.service /usr/lib/systemd/system/smartnat-boundary.service || fail "systemd-analyze verify"
ok "systemd-analyze verify finds nothing in the unit"

[[ $(stat -c %a "$root/etc/smartnat") == 700 ]] || fail "other users can read the folder of credentials"
ok "only root can read the folder of credentials"

in_root getent group smartnat | grep -q '^smartnat:[^:]*:[1-9][0-9]*:$' || fail "no group smartnat, or one with members"
ok "the package creates the group smartnat, without members"

# The delivered config is valid: only the credentials are missing, and check says which.
in_root smartnatd check >"$tmp/check" 2>&1 && fail "check finds credentials in a fresh installation"
grep -q 'source.relay.tokenFile' "$tmp/check" || { cat "$tmp/check"; fail "check does not name the missing file"; }
grep -q '^FAILED  config: source.relay' "$tmp/check" || { cat "$tmp/check"; fail "the delivered config is invalid"; }
ok "the delivered config is valid; check names the missing credentials"

echo "# mine" >>"$root/etc/smartnat.yaml"
in_root dpkg -i /tmp/later.deb >/dev/null </dev/null
in_root smartnatd version | grep -q '99\.0\.0' || fail "the upgrade"
[[ $(tail -n 1 "$root/etc/smartnat.yaml") == "# mine" ]] || fail "an upgrade replaces an edited config"
ok "an upgrade installs the new program and keeps an edited config"

in_root dpkg -i /tmp/first.deb >/dev/null 2>&1 </dev/null
in_root smartnatd version | grep -q '99\.0\.0' && fail "the downgrade"
[[ $(tail -n 1 "$root/etc/smartnat.yaml") == "# mine" ]] || fail "a downgrade replaces an edited config"
ok "a downgrade installs the old program and keeps an edited config"

in_root dpkg --remove smartnat >/dev/null
[[ ! -e $root/usr/sbin/smartnatd && -e $root/etc/smartnat.yaml ]] || fail "a removal deletes the config or leaves the program"
mkdir -p "$root/var/lib/smartnat"
in_root dpkg --purge smartnat >/dev/null
[[ ! -e $root/etc/smartnat.yaml && ! -e $root/var/lib/smartnat ]] || fail "a purge leaves files"
ok "a removal keeps the config, a purge leaves nothing"

# Install the rpm in the same root, with rpm's own database.
rpm_in() { in_root rpm --dbpath /tmp/rpmdb --nosignature "$@" 2>&1 | { grep -v '^warning: .* NOKEY' || true; }; }
in_root rpm --dbpath /tmp/rpmdb --initdb
rpm_in -i /tmp/first.rpm >/dev/null
in_root smartnatd version | grep -q '^smartnatd ' || fail "the program of the rpm does not run"
echo "# mine" >>"$root/etc/smartnat.yaml"
rpm_in -U /tmp/later.rpm >/dev/null
in_root smartnatd version | grep -q '99\.0\.0' || fail "the upgrade of the rpm"
rpm_in -U --oldpackage /tmp/first.rpm >/dev/null
in_root smartnatd version | grep -q '99\.0\.0' && fail "the downgrade of the rpm"
[[ $(tail -n 1 "$root/etc/smartnat.yaml") == "# mine" && ! -e $root/etc/smartnat.yaml.rpmnew ]] || fail "upgrade or downgrade of the rpm replace an edited config"
rpm_in -e smartnat >/dev/null
[[ ! -e $root/usr/sbin/smartnatd && ! -e $root/usr/share/doc/smartnat && -e $root/etc/smartnat.yaml.rpmsave ]] || fail "the removal of the rpm loses an edited config or leaves files"
ok "the rpm installs without iptables, upgrades, downgrades and is removed"
INSIDE
echo "packages: all tests passed"

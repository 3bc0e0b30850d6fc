#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# What the README tells an operator to do, on a Debian that boots: the deb of dist/ is installed, the config edited, the unit
# started, killed, stopped, and removed, with both iptables back ends. It takes debootstrap, systemd-nspawn and root. The Debian
# is bootstrapped once, outside the tree; each run works on a copy of it without a network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

suite=bookworm
for program in debootstrap systemd-nspawn; do
	command -v "$program" >/dev/null || {
		echo "boot: please install debootstrap and systemd-container" >&2
		exit 1
	}
done
deb="$(compgen -G "dist/smartnat_*_$(go env GOARCH).deb" | head -n 1)"
[[ -n $deb ]] || {
	echo "boot: no deb in dist/: run make packages" >&2
	exit 1
}

echo "boot: a later version, to upgrade to"
later="$(mktemp -d)"
trap 'rm -rf "$later"' EXIT
VERSION=99.0.0 DIST="$later" scripts/packages/build.sh "$(go env GOARCH)" >/dev/null

base="${XDG_CACHE_HOME:-$HOME/.cache}/smartnat/debian-$suite"
if [[ ! -x $base/usr/sbin/nft ]]; then
	echo "boot: bootstrapping Debian $suite (once; minutes)"
	mkdir -p "$(dirname "$base")"
	rm -rf "$base" "$base.new"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,iptables,nftables,kmod,procps "$suite" "$base.new" >/dev/null
	mv "$base.new" "$base"
fi
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp" "$later"' EXIT
root="$tmp/root"
cp -a "$base" "$root"
cp "$deb" "$root/root/smartnat.deb"
cp "$later"/*.deb "$root/root/later.deb"
cp scripts/packages/boot-inside.sh scripts/packages/boot-traffic.pl "$root/root/"
cat >"$root/etc/systemd/system/try.service" <<'END'
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/root/boot-inside.sh >/root/log 2>&1 && touch /root/passed'
ExecStopPost=/usr/bin/systemctl --no-block poweroff
TimeoutStartSec=300
END
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../try.service "$root/etc/systemd/system/multi-user.target.wants/try.service"

echo "boot: booting it"
timeout 400 systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network >"$tmp/console" 2>&1 </dev/null || true
cat "$root/root/log"
[[ -e $root/root/passed ]] || {
	tail -n 20 "$tmp/console" >&2
	echo "boot: FAILED" >&2
	exit 1
}
echo "boot: passed"

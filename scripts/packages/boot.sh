#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Boots a Debian with the packages of dist/, in three scenarios:
#   boot.sh install   the steps of the README, by boot-inside.sh: install, edit, start, upgrade, remove, purge
#   boot.sh start     a configured gateway boots while its relay is unreachable, by boot-start.sh, with both iptables variants
#   boot.sh announce  smartnatd announces an address by the distribution's BIRD, by boot-announce.sh
#   boot.sh           all
# It needs what setup.sh boot installs, and root. It bootstraps the Debian once, outside the tree; each run works on copies of it
# without a network. rpm itself installs the rpm on that Debian too: no Enterprise Linux is booted here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

suite=bookworm
arch="$(go env GOARCH)"
rpm_arch="${arch/amd64/x86_64}"
rpm_arch="${rpm_arch/arm64/aarch64}"
newest() { # GLOB
	local file newest=''
	for file in $1; do
		[[ -n $newest && $newest -nt $file ]] || newest="$file"
	done
	[[ -e $newest ]] || {
		echo "boot: no $1: run make packages" >&2
		exit 1
	}
	echo "$newest"
}
deb="$(newest "dist/smartnat_*_$arch.deb")"
rpm="$(newest "dist/smartnat-*.$rpm_arch.rpm")"

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
echo "boot: building a later version for the upgrade"
VERSION=99.0.0 DIST="$tmp/later" scripts/packages/build.sh "$arch" >/dev/null
# The only dependency of the rpm that has another name on Debian.
cat >"$tmp/stub.yaml" <<-END
	name: iptables-nft
	arch: all
	version: 1.8.11
	maintainer: The SmartNat Authors <maintainers@smartnat.invalid>
	description: stub of a dependency of the rpm
	contents: [{dst: /usr/share/stub, type: dir}]
END
"$(scripts/tools/build.sh nfpm)/nfpm" package --config "$tmp/stub.yaml" --packager rpm --target "$tmp/iptables-nft.rpm" >/dev/null

base="${XDG_CACHE_HOME:-$HOME/.cache}/smartnat/debian-$suite"
if [[ ! -x $base/usr/sbin/nft || ! -x $base/usr/bin/rpm || ! -x $base/usr/sbin/bird ]]; then
	echo "boot: bootstrapping Debian $suite (once; minutes)"
	mkdir -p "$(dirname "$base")"
	rm -rf "$base" "$base.new"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,iptables,nftables,kmod,procps,rpm,bird2 "$suite" "$base.new" >/dev/null
	mv "$base.new" "$base"
fi

new_root() { # makes a copy of the Debian with the packages and the scripts
	rm -rf "$tmp/root"
	cp -a "$base" "$tmp/root"
	cp "$deb" "$tmp/root/root/smartnat.deb"
	cp "$tmp"/later/*.deb "$tmp/root/root/later.deb"
	cp "$rpm" "$tmp/root/root/smartnat.rpm"
	cp "$tmp"/later/*.rpm "$tmp/root/root/later.rpm"
	cp "$tmp/iptables-nft.rpm" scripts/packages/boot-*.sh scripts/packages/boot-traffic.pl "$tmp/root/root/"
}

boot() { # COMMAND: boots the copy and runs the command there; no target waits for it
	local root="$tmp/root"
	rm -f "$root/root/log" "$root/root/passed"
	cat >"$root/etc/systemd/system/try.service" <<-END
		[Unit]
		DefaultDependencies=no
		After=basic.target
		[Service]
		Type=exec
		ExecStart=/bin/sh -c '/root/$1 >/root/log 2>&1 && touch /root/passed'
		ExecStopPost=/usr/bin/systemctl --no-block poweroff
		RuntimeMaxSec=300
	END
	mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
	ln -sf ../try.service "$root/etc/systemd/system/multi-user.target.wants/try.service"
	timeout 400 systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network >"$tmp/console" 2>&1 </dev/null || true
	cat "$root/root/log"
	[[ -e $root/root/passed ]] || {
		tail -n 20 "$tmp/console" >&2
		echo "boot: FAILED" >&2
		exit 1
	}
}

if [[ ${1:-install} == install ]]; then
	echo "boot: booting Debian to install SmartNat"
	new_root
	boot boot-inside.sh
fi
in_root() { # COMMAND...
	chroot "$tmp/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

if [[ ${1:-start} == start ]]; then
	for try in "nft deb" "legacy rpm"; do
		echo "boot: booting a gateway: iptables-$try"
		new_root
		# shellcheck disable=SC2086
		in_root /root/boot-start.sh prepare $try
		boot "boot-start.sh see $try"
	done
fi
if [[ ${1:-announce} == announce ]]; then
	echo "boot: booting a gateway that announces by BIRD"
	new_root
	cp systemd/README.md "$tmp/root/root/"
	in_root /root/boot-announce.sh prepare
	boot "boot-announce.sh see"
fi
echo "boot: passed"

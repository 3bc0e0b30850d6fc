#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Makes what a kernel boots into, for run.sh:
#   image.sh kernel SERIES         downloads and unpacks Debian's newest kernel of a series (6.1), and prints its folder
#   image.sh root FILE SUITE...    an initramfs with this machine's programs, the repository, and the tests of the packages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

die() {
	echo "kernels: $*" >&2
	exit 1
}

archive() { # FOLDER FILE
	(cd "$1" && find . | LC_ALL=C sort | busybox cpio -o -H newc 2>/dev/null) >"$2"
}

# newest SERIES: prints the newest version of a series that the mirrors of apt have.
newest() {
	apt-cache pkgnames "linux-image-$1." | sed -nE 's/^linux-image-([0-9.]+([-+](deb)?[0-9]+)-cloud-amd64)$/\1/p' | sort -V | tail -n 1
}

kernel() { # SERIES
	local version dir
	local cache="${XDG_CACHE_HOME:-$HOME/.cache}/smartnat/kernels"
	version="$(newest "$1")"
	if [[ -z $version || ! -e $cache/$version/vmlinuz ]]; then
		# Mirrors remove what they replace, so old lists name packages that are gone.
		((EUID != 0)) || apt-get -qq update >&2
		version="$(newest "$1")"
	fi
	[[ -n $version ]] || die "no mirror of apt has linux-image-$1.*-cloud-amd64: add bookworm-security or the backports to its sources"
	dir="$cache/$version"
	if [[ ! -e $dir/vmlinuz ]]; then
		echo "kernels: downloading linux-image-$version" >&2
		mkdir -p "$dir" "$tmp/deb"
		(cd "$tmp/deb" && apt-get -qq -o APT::Sandbox::User=root download "linux-image-$version" >&2)
		dpkg-deb -x "$tmp"/deb/*.deb "$tmp/unpacked"
		modules "$version" "$dir/modules.cpio"
		# Last: it says that the folder is complete.
		mv "$tmp/unpacked/boot/vmlinuz-$version" "$dir/vmlinuz"
	fi
	echo "$dir"
}

# modules VERSION FILE: archives the modules that networking can need.
modules() {
	local from="$tmp/unpacked/lib/modules/$1" to="$tmp/modules/usr/lib/modules/$1" part
	for part in arch crypto lib net fs/overlayfs drivers/net; do
		mkdir -p "$to/kernel/$(dirname "$part")"
		cp -a "$from/kernel/$part" "$to/kernel/$(dirname "$part")/"
	done
	rm -rf "$to/kernel/drivers/net/ethernet"
	cp "$from"/modules.{order,builtin,builtin.modinfo} "$to/"
	ln -s usr/lib "$tmp/modules/lib"
	depmod -b "$tmp/modules" "$1"
	rm "$tmp/modules/lib"
	archive "$tmp/modules" "$2"
}

# programs copies programs of this machine with their libraries. Those that are links keep their names, by which iptables knows its variant.
programs() { # NAME...
	local name path real reals=()
	for name in "$@"; do
		path="$(command -v "$name")" || die "please install $name: make setup"
		real="$(readlink -f "$path")"
		reals+=("$real")
		[[ $name == "${real##*/}" ]] || ln -s "$real" "$root$path"
	done
	# Extensions of iptables have libraries of their own. Static programs have none, and ldd fails for them.
	reals+=("$(ldconfig -p | sed -n 's/.* => \(.*\)\/libxtables\.so\..*/\1/p' | head -n 1)"/xtables/*.so)
	{
		printf '%s\n' "${reals[@]}"
		{ ldd "${reals[@]}" 2>/dev/null || true; } | grep -oE '[[:space:]]/[^ :]+' | tr -d ' \t'
	} | sort -u | xargs cp -L --parents -t "$root"
}

root() { # FILE SUITE...
	local file="$1" suite part
	shift
	root="$tmp/root"
	mkdir -p "$root"/{usr/{bin,sbin,lib,lib64,local/sbin},proc,sys,dev,run,tmp,root,var/lib,etc,tests,src}
	for part in bin sbin lib lib64; do ln -s "usr/$part" "$root/$part"; done
	# A shell that is no part of busybox, which would run its own ip instead of the real one.
	programs sh busybox kmod modprobe ip sysctl nft ipset conntrack wg ipvsadm {ip,ip6}tables{,-nft,-legacy}{,-save,-restore}
	busybox --install -s "$root/usr/bin" 2>/dev/null || true # it leaves the real ones alone
	for part in "$root"/usr/sbin/*; do rm -f "$root/usr/bin/${part##*/}"; done
	for part in /etc/protocols /etc/services /etc/iproute2; do
		[[ ! -e $part ]] || cp -a "$part" "$root/etc/"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$root/src"

	export CGO_ENABLED=0
	go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$root/usr/local/sbin/smartnatd" ./cmd/smartnatd
	for suite in "$@"; do
		echo "kernels: compiling the tests of $suite"
		go test -c -trimpath -ldflags '-s -w' -o "$root/tests/${suite//\//-}" "./$suite"
	done
	printf '%s\n' "$@" >"$root/suites"
	echo "${FLAGS:-}" >"$root/flags"
	install -m 0755 scripts/kernels/init.sh "$root/init"
	archive "$root" "$file"
}

case ${1:-} in
kernel) kernel "$2" ;;
root) root "${@:2}" ;;
*)
	echo "usage: image.sh kernel SERIES | root FILE SUITE..." >&2
	exit 2
	;;
esac

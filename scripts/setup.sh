#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Installs missing tools with the distribution's own package manager:
#   setup.sh demo    tools of the lab and the demo
#   setup.sh test    also the tools of tests, checks and packaging (default)
#   setup.sh kernels also the tools that boot other kernels
#   setup.sh boot    also the tool that installs a Debian to boot
# As root on Debian, Ubuntu (apt-get) or Fedora (dnf) it installs them. Otherwise it prints one line with the packages, and fails.
# If nothing is missing, it needs no root and does not prompt.
set -euo pipefail

purpose="${1:-test}"
case $purpose in
demo | test | kernels | boot) ;;
*)
	echo "usage: setup.sh [demo|test|kernels|boot]" >&2
	exit 2
	;;
esac

# Programs of administrators may not be on the PATH of other users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# program (or one of several) or path that must exist | Debian's package, or none | Fedora's package | purpose
demo='
iptables                  | iptables                 | iptables-nft          | programming the kernel
ip6tables                 | iptables                 | iptables-nft          | programming the kernel
ip                        | iproute2                 | iproute               | hosts as network namespaces
conntrack                 | conntrack                | conntrack-tools       | looking at connections
modprobe                  | kmod                     | kmod                  | kernel modules that are not built in
sysctl                    | procps                   | procps-ng             | looking at processes and sysctls
nsenter                   | util-linux               | util-linux            | entering a namespace
/etc/ssl/certs            | ca-certificates          | ca-certificates       | downloading Go modules
git                       | git                      | git                   | the version that is built
'
test='
iptables-legacy           | iptables                 | iptables-legacy       | tests of both iptables variants
ipset                     | ipset                    | ipset                 | sets of sources
firewalld                 | firewalld                | firewalld             | tests with another firewall
nft                       | nftables                 | nftables              | benchmarks of kube-proxy with nftables
tcpdump                   | tcpdump                  | tcpdump               | tests of missing packets
wg                        | wireguard-tools          | wireguard-tools       | tests of uplinks of WireGuard
ipvsadm                   | ipvsadm                  | ipvsadm               | tests with IPVS on the gateway
keepalived                | keepalived               | keepalived            | tests of a pair of gateways
conntrackd                | conntrackd               | conntrack-tools       | tests of a pair of gateways
bird                      | bird2                    | bird                  | tests of many gateways
gcc                       | gcc                      | gcc                   | the race detector
/usr/include/stdlib.h     | libc6-dev                | glibc-devel           | the race detector
shellcheck                | shellcheck               | ShellCheck            | make verify
dpkg-deb                  | dpkg                     | dpkg                  | tests of the deb
rpm                       | rpm                      | rpm                   | tests of the rpm
systemd-analyze           | systemd                  | systemd               | tests of the systemd unit
systemd-nspawn            | systemd-container        | systemd-container     | booting a system in the lab
buildah                   | buildah                  | buildah               | tests of the image of the relay
chromium,google-chrome    | chromium                 | chromium              | tests of the page
promtool                  |                          | golang-github-prometheus | tests of alerts
'
kernels='
qemu-system-x86_64        | qemu-system-x86          | qemu-system-x86-core  | booting other kernels
busybox                   | busybox-static           | busybox               | their first programs
'
boot='
debootstrap               | debootstrap              | debootstrap           | installing a Debian in a folder
'
table="$demo"
[[ $purpose == demo ]] || table+="$test"
[[ $purpose != kernels ]] || table+="$kernels"
[[ $purpose != boot ]] || table+="$boot"

if command -v apt-get >/dev/null; then
	manager=apt-get column=2
elif command -v dnf >/dev/null; then
	manager=dnf column=3
else
	manager='' column=2
fi

present() { # PROGRAM[,PROGRAM...]|PATH
	if [[ $1 == /* ]]; then
		[[ -e $1 ]]
	else
		local programs
		IFS=, read -ra programs <<<"$1"
		[[ -n $(type -P "${programs[@]}") ]]
	fi
}

# packaged reports whether the distribution has a package. Ubuntu's chromium is a snap, which a test cannot run as root in its own
# network namespace.
packaged() { # PACKAGE
	[[ -n $1 ]] || return
	[[ $1 != chromium ]] || ! grep -qx 'ID=ubuntu' /etc/os-release || {
		echo "setup: Ubuntu has no package of chromium: tests of the page are skipped unless google-chrome is installed"
		return 1
	}
}

packages=()
while IFS='|' read -r probe debian fedora purpose_of; do
	probe="${probe// /}" debian="${debian// /}" fedora="${fedora// /}"
	[[ -n $probe ]] || continue
	present "$probe" && continue
	package="$debian"
	((column == 2)) || package="$fedora"
	packaged "$package" || continue
	if [[ " ${packages[*]} " != *" $package "* ]]; then
		echo "setup: $package is missing:$purpose_of"
		packages+=("$package")
	fi
done <<<"$table"

# Debian's packages start their services and enable them for the next boot. On a developer's machine a firewall, VRRP or a daemon that
# changes connections must do neither: policy-rc.d (invoke-rc.d(8)) forbids the start, and disable removes the links.
install_without_services() { # PACKAGE...
	local policy=/usr/sbin/policy-rc.d units
	if [[ ! -e $policy ]]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	apt-get -qq install --yes --no-install-recommends "$@" >/dev/null
	mapfile -t units < <(dpkg -L "$@" | sed -n 's,^\(/usr\)\?/lib/systemd/system/\([^/@]*\.service\)$,\2,p')
	((${#units[@]} == 0)) || [[ -z $(type -P systemctl) ]] || systemctl --quiet disable "${units[@]}"
}

# unpack gets the programs whose package would start a service on Debian.
unpack() {
	[[ $purpose == demo || $manager != apt-get ]] || "$(dirname "${BASH_SOURCE[0]}")/tools/prometheus.sh" >/dev/null
}

if ! command -v go >/dev/null; then
	echo "setup: Go is missing: install 1.26 or newer from https://go.dev/doc/install (a distribution's Go from 1.21 on downloads it by itself)" >&2
	exit 1
fi
if ((${#packages[@]} == 0)); then
	unpack
	echo "setup: nothing is missing"
	exit 0
fi
if [[ -z $manager ]]; then
	echo "setup: please install these packages of Debian, or their equivalents: ${packages[*]}" >&2
	exit 1
fi
if ((EUID != 0)); then
	echo "setup: please run: sudo $manager install ${packages[*]}" >&2
	exit 1
fi

echo "setup: $manager install ${packages[*]}"
if [[ $manager == apt-get ]]; then
	export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
	apt-get -qq update
	install_without_services "${packages[@]}"
else
	dnf --quiet --assumeyes install "${packages[@]}"
fi
unpack
echo "setup: done"

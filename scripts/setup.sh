#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Installs missing tools with the distribution's own package manager:
#   setup.sh demo    tools of the lab and the demo
#   setup.sh test    also the tools of tests, checks and packaging (default)
#   setup.sh kernels also the tools that boot other kernels
# As root on Debian, Ubuntu (apt-get) or Fedora (dnf) it installs them. Otherwise it prints one line with the packages, and fails.
# If nothing is missing, it needs no root and does not prompt.
set -euo pipefail

purpose="${1:-test}"
case $purpose in
demo | test | kernels) ;;
*)
	echo "usage: setup.sh [demo|test|kernels]" >&2
	exit 2
	;;
esac

# Programs of administrators may not be on the PATH of other users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# program or path that must exist | Debian's package | Fedora's package | purpose
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
gcc                       | gcc                      | gcc                   | the race detector
/usr/include/stdlib.h     | libc6-dev                | glibc-devel           | the race detector
shellcheck                | shellcheck               | ShellCheck            | make verify
dpkg-deb                  | dpkg                     | dpkg                  | tests of the deb
rpm                       | rpm                      | rpm                   | tests of the rpm
systemd-analyze           | systemd                  | systemd               | tests of the systemd unit
buildah                   | buildah                  | buildah               | tests of the image of the relay
'
kernels='
qemu-system-x86_64        | qemu-system-x86          | qemu-system-x86-core  | booting other kernels
busybox                   | busybox-static           | busybox               | their first programs
'
table="$demo"
[[ $purpose == demo ]] || table+="$test"
[[ $purpose != kernels ]] || table+="$kernels"

if command -v apt-get >/dev/null; then
	manager=apt-get column=2
elif command -v dnf >/dev/null; then
	manager=dnf column=3
else
	manager='' column=2
fi

present() { # PROGRAM|PATH
	if [[ $1 == /* ]]; then
		[[ -e $1 ]]
	else
		command -v "$1" >/dev/null
	fi
}

packages=()
while IFS='|' read -r probe debian fedora purpose_of; do
	probe="${probe// /}" debian="${debian// /}" fedora="${fedora// /}"
	[[ -n $probe ]] || continue
	present "$probe" && continue
	package="$debian"
	((column == 2)) || package="$fedora"
	if [[ " ${packages[*]} " != *" $package "* ]]; then
		echo "setup: $package is missing:$purpose_of"
		packages+=("$package")
	fi
done <<<"$table"

if ! command -v go >/dev/null; then
	echo "setup: Go is missing: install 1.26 or newer from https://go.dev/doc/install (a distribution's Go from 1.21 on downloads it by itself)" >&2
	exit 1
fi
if ((${#packages[@]} == 0)); then
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
	apt-get -qq install --yes --no-install-recommends "${packages[@]}" >/dev/null
else
	dnf --quiet --assumeyes install "${packages[@]}"
fi
echo "setup: done"

#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0

# Prints the directory with the programs prometheus and promtool for tests. Debian's package would start a server, so this script
# unpacks it into a cache outside the tree; programs that are installed come first. `prometheus.sh --where` only prints the directory.
set -euo pipefail

programs=(prometheus promtool)
if [[ $(command -v "${programs[@]}" | wc -l) == "${#programs[@]}" ]]; then
	dirname "$(command -v promtool)"
	exit
fi
cache="${XDG_CACHE_HOME:-$HOME/.cache}/smartnat/tools"
bin="$cache/prometheus"
if [[ ${1:-} == --where || -d $bin ]]; then
	echo "$bin"
	exit
fi

echo "prometheus: unpacking Debian's package into $bin" >&2
mkdir -p "$cache"
# Rename a temporary directory, so that concurrent runs never see incomplete output.
aside="$(mktemp -d "$cache/.prometheus.XXXXXX")"
trap 'rm -rf "$aside"' EXIT
mkdir "$aside/bin"
(
	cd "$aside"
	# As another user, apt could not write into the directory of this one.
	apt-get -qq -o APT::Sandbox::User=root download prometheus >&2
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C bin --strip-components 3 ./usr/bin/prometheus ./usr/bin/promtool
)
chmod 755 "$aside/bin"
mv -T "$aside/bin" "$bin" 2>/dev/null || [[ -d $bin ]]
echo "$bin"

#!/bin/bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs as root on the Debian that boot.sh boots, whose network is a link to nowhere.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

ok() { echo "ok    boot: $*"; }
fail() {
	echo "FAIL  boot: $*"
	journalctl --no-pager --unit smartnatd | tail -n 20
	exit 1
}
rules() { # without counters and dates
	iptables-save | sed '/^#/d; s/\[.*//'
}
settings() { sysctl net.ipv4.ip_forward net.ipv4.conf.eth1.rp_filter; }
held() { # what keeps connections, without the name of a process, which nft looks up
	nft -a list table inet smartnat-hold 2>/dev/null | sed 's/ progname .*//'
}
host() { # all that smartnatd may change
	rules
	ip rule
	ip route show table all
	settings
}

sysctl -q -w net.ipv4.conf.all.rp_filter=1
ip link add eth1 type veth peer name provider
ip link set provider up
ip address add 198.51.100.10/24 dev eth1
ip link set eth1 up
sysctl -q -w net.ipv4.conf.eth1.rp_filter=1

apt-get -qq install -y /root/smartnat.deb >/dev/null
[[ $(systemctl is-enabled smartnatd || true) == disabled && $(systemctl is-active smartnatd || true) == inactive ]] || fail "the package starts nothing"
[[ $(sysctl -n net.ipv4.ip_forward) == 0 ]] || fail "the package alone makes no router of the host"
ok "apt installs it, starts nothing and changes nothing"

systemctl start smartnatd 2>/dev/null && fail "an unedited config cannot work"
journalctl --no-pager --unit smartnatd | grep -q source.relay.tokenFile || fail "the journal names the key"
[[ $(systemctl is-active smartnatd || true) == activating ]] || fail "files that are not there yet are tried again"
systemctl stop smartnatd
ok "an unedited config is tried again, and the journal names the key of each file that is missing"

cp -a /etc/smartnat.yaml /root/unedited.yaml
echo 'uplink: []' >>/etc/smartnat.yaml
systemctl start smartnatd 2>/dev/null && fail "a mistake in the config cannot work"
[[ $(systemctl is-failed smartnatd) == failed ]] || fail "a mistake in the config is not retried"
systemctl reset-failed smartnatd
cp -a /root/unedited.yaml /etc/smartnat.yaml
ok "a mistake in the config ends it"

mkdir /etc/smartnat/objects
cat >/etc/smartnat/objects/echo.yaml <<'END'
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: echo}
spec:
  addresses: [198.51.100.10]
  serviceName: echo
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.5
  ports: [{port: 8080}]
END
cat >/etc/smartnat.yaml <<'END'
source:
  files: {paths: [/etc/smartnat/objects]}
uplinks:
- {interface: eth1, gateway: 198.51.100.1}
END

for backend in nft legacy; do
	update-alternatives --quiet --set iptables "/usr/sbin/iptables-$backend"
	update-alternatives --quiet --set ip6tables "/usr/sbin/ip6tables-$backend"
	rules >/dev/null # which makes the tables, that are seen as empty ones from then on
	iptables-save -t nat >/dev/null
	settings >/root/settings
	ip rule >/root/ip-rule

	smartnatd check >/root/check || { cat /root/check; fail "$backend: check"; }
	timeout 60 systemctl start smartnatd || fail "$backend: start"
	rules | grep -q -- '--to-destination 10.96.0.5:8080' || fail "$backend: no rule when the unit says that it is ready"
	ip rule | grep -q 7380 || fail "$backend: no ip rule when the unit says that it is ready"
	[[ $(sysctl -n net.ipv4.ip_forward net.ipv4.conf.eth1.rp_filter | xargs) == "1 2" ]] || fail "$backend: sysctls"
	ok "$backend: started, and all is in effect"

	host >/root/before
	killed="$(systemctl show --property MainPID --value smartnatd)"
	held="$(held)" || fail "$backend: nothing holds connections"
	kill -KILL "$killed"
	for ((i = 0; i < 100; i++)); do
		[[ $(systemctl show --property SubState --value smartnatd) != auto-restart ]] || break
		sleep 0.01
	done
	for table in mangle filter nat; do
		iptables -t "$table" -F
	done
	nft flush ruleset
	[[ $(systemctl show --property SubState --value smartnatd) == auto-restart ]] || fail "$backend: restarted before all was flushed"
	[[ $(held) == "$held" ]] || fail "$backend: killed, and nothing holds connections"
	for ((i = 0; i < 100; i++)); do
		sleep 0.2
		[[ $(systemctl is-active smartnatd || true) != active || $(systemctl show --property MainPID --value smartnatd) == "$killed" ]] || break
	done
	((i < 100)) || fail "$backend: killed and not restarted"
	diff /root/before <(host) || fail "$backend: killed and restarted, the kernel is another"
	[[ $(held) == "$held" ]] || fail "$backend: killed and restarted, something else holds connections"
	systemctl restart smartnatd
	[[ $(held) == "$held" ]] || fail "$backend: restarted, and something else holds connections"
	cp /etc/smartnat.yaml /root/smartnat.yaml
	echo 'iptables: {ipv6: false}' >>/etc/smartnat.yaml
	systemctl restart smartnatd
	[[ $(nft list tables | grep smartnat-hold) == "table ip smartnat-hold" ]] || fail "$backend: restarted without IPv6, and something else holds connections"
	cp /root/smartnat.yaml /etc/smartnat.yaml
	systemctl restart smartnatd
	[[ $(nft list tables | grep smartnat-hold) == "table inet smartnat-hold" ]] || fail "$backend: restarted with IPv6 again, and something else holds connections"
	systemctl stop smartnatd
	nft list tables | grep smartnat-hold && fail "$backend: stopped, and it still holds connections"
	diff /root/before <(host) || fail "$backend: stopped, the kernel is another"
	ok "$backend: killed, all rules flushed, restarted and stopped, and the kernel is the same; connections were held until it was stopped"

	smartnatd cleanup >/dev/null
	rules | grep SMARTNAT && fail "$backend: cleanup left rules"
	diff /root/settings <(settings) || fail "$backend: cleanup left sysctls"
	diff /root/ip-rule <(ip rule) || fail "$backend: cleanup left ip rules"
	[[ -z $(ip route show table all proto 83) ]] || fail "$backend: cleanup left routes"
	ok "$backend: cleanup leaves nothing"
done

systemctl --quiet enable --now smartnatd
apt-get -qq purge -y smartnat >/dev/null 2>&1
[[ $(systemctl is-active smartnatd || true) == inactive ]] || fail "purged and still running"
[[ ! -e /etc/smartnat.yaml && ! -e /var/lib/smartnat ]] || fail "a purge leaves files"
ok "purged: stopped and gone"

#!/bin/bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Boots a configured gateway that forwards by its own sysctls, while its relay is unreachable and no objects are saved:
#   prepare BACKEND KIND   in the root before it boots: installs the deb or the rpm, and configures it
#   links                  at boot, as a network manager: creates the links; a neighbour sends to a pod from the first moment
#   see BACKEND KIND       after the boot: checks the order of events, what the neighbour reached, and what a removal leaves
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

ok() { echo "ok    boot: $backend, $kind: $*"; }
fail() {
	echo "FAIL  boot: $backend, $kind: $*"
	systemctl --no-pager --lines 20 status smartnat-boundary smartnatd links neighbour || true
	exit 1
}
rules() { # of both families, without counters and dates
	{ iptables-save && ip6tables-save; } | sed '/^#/d; s/\[.*//'
}
within() { # SECONDS COMMAND...: retries the command until it succeeds or the time is over
	local i
	for ((i = 0; i < $1 * 10; i++)); do
		"${@:2}" && return
		sleep 0.1
	done
	return 1
}

install_package() { # NAME
	case $kind in
	deb) dpkg --force-downgrade -i "/root/$1.deb" >/dev/null 2>&1 </dev/null ;;
	rpm) rpm --dbpath /root/rpmdb --nosignature -U --oldpackage "/root/$1.rpm" >/dev/null 2>&1 ;;
	esac
}
remove_package() {
	case $kind in
	deb) dpkg --purge smartnat >/dev/null 2>&1 ;;
	rpm) rpm --dbpath /root/rpmdb -e smartnat >/dev/null 2>&1 ;;
	esac
}

prepare() {
	update-alternatives --quiet --set iptables "/usr/sbin/iptables-$backend"
	update-alternatives --quiet --set ip6tables "/usr/sbin/ip6tables-$backend"
	[[ $kind != rpm ]] || rpm --dbpath /root/rpmdb --nosignature -i /root/iptables-nft.rpm 2>/dev/null
	install_package smartnat
	cat >/etc/smartnat.yaml <<-END
		source:
		  relay: {servers: [https://192.0.2.1:8443], tokenFile: /etc/smartnat/token}
		startTimeout: 5s
		uplinks:
		- {interface: eth1, gateway: 198.51.100.1}
	END
	(umask 077 && echo token >/etc/smartnat/token)
	printf 'net.ipv4.ip_forward=1\nnet.ipv6.conf.all.forwarding=1\n' >/etc/sysctl.d/50-router.conf
	# After network-pre.target, as ifupdown, systemd-networkd and NetworkManager.
	cat >/etc/systemd/system/links.service <<-END
		[Unit]
		DefaultDependencies=no
		Wants=network-pre.target network.target
		After=local-fs.target network-pre.target
		Before=network.target network-online.target
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart=/root/boot-start.sh links
		[Install]
		WantedBy=multi-user.target
	END
	cat >/etc/systemd/system/neighbour.service <<-END
		[Unit]
		DefaultDependencies=no
		[Service]
		ExecStart=/usr/sbin/ip netns exec neighbour perl /root/boot-traffic.pl send 9 /root/sent 10.244.1.10 fd00:10:244::10
	END
	systemctl --quiet enable links smartnatd
	[[ -L /etc/systemd/system/multi-user.target.wants/smartnat-boundary.service ]] || fail "enabling smartnatd does not enable the boundary"
	# An upgrade from a version without the boundary enables nothing: smartnatd alone must start it.
	[[ $backend != legacy ]] || rm /etc/systemd/system/multi-user.target.wants/smartnat-boundary.service
}

links() {
	{
		rules
		sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding
	} >/root/at-links
	ip netns add neighbour
	ip netns add pod
	ip netns exec pod nft 'table inet seen { chain in { type filter hook input priority 0; meta nfproto ipv4 udp dport 9 counter; meta nfproto ipv6 udp dport 9 counter; }; }'
	ip link add eth1 type veth peer name eth0 netns neighbour
	ip link add cluster type veth peer name eth0 netns pod
	ip -n neighbour address add 198.51.100.1/24 dev eth0
	ip -n neighbour address add 2001:db8::1/64 dev eth0 nodad
	ip -n neighbour link set eth0 up
	ip -n neighbour route add 10.244.1.0/24 via 198.51.100.10
	ip -n neighbour route add fd00:10:244::/64 via 2001:db8::10
	ip -n pod address add 10.244.1.10/24 dev eth0
	ip -n pod address add fd00:10:244::10/64 dev eth0 nodad
	ip -n pod link set eth0 up
	ip address add 10.244.1.1/24 dev cluster
	ip address add fd00:10:244::1/64 dev cluster nodad
	ip link set cluster up
	ip address add 198.51.100.10/24 dev eth1
	ip address add 2001:db8::10/64 dev eth1 nodad
	ip link set eth1 up
	systemctl start neighbour
}

entered() { systemctl show --property ActiveEnterTimestampMonotonic --value "$1"; } # microseconds after the boot
began() { systemctl show --property InactiveExitTimestampMonotonic --value "$1"; }
sent() { # COUNT: reports whether the neighbour has sent as many packets
	[[ -e /root/sent ]] && (($(wc -l </root/sent) >= $1))
}
reached() { # prints how many of them reached the pod, IPv4 and IPv6
	ip netns exec pod nft list chain inet seen in | sed -n 's/.* counter packets \([0-9]*\) .*/\1/p' | xargs
}
both_reach() {
	local four six
	read -r four six <<<"$(reached)"
	((four > 0 && six > 0))
}
restarted() { # PID: reports whether smartnatd runs as another process
	[[ $(systemctl is-active smartnatd || true) == active && $(systemctl show --property MainPID --value smartnatd) != "$1" ]]
}
left() { # lists files of SmartNat, without the records of dpkg
	find /etc /run /usr /var -xdev -name '*smartnat*' ! -path '/var/lib/dpkg/*' | LC_ALL=C sort
}

see() {
	within 60 systemctl --quiet is-active multi-user.target || fail "multi-user.target was not reached"
	local status
	status="$(systemctl show --property StatusText --value smartnatd)"
	[[ $status == degraded:* && $status == *192.0.2.1* ]] || fail "the status does not name the cause: $status"
	systemctl --no-pager status smartnatd | grep -q 'Status: "degraded: ' || fail "systemctl status does not say degraded"
	[[ ! -e /var/lib/smartnat/objects.jsonl ]] || fail "something was saved"
	ok "multi-user.target is reached while the relay is unreachable, and systemctl status names the cause"

	[[ $(systemctl is-active smartnat-boundary) == active ]] || fail "the boundary failed"
	(($(entered smartnat-boundary) <= $(entered network-pre.target) && $(entered network-pre.target) <= $(began links))) ||
		fail "wrong order: the boundary $(entered smartnat-boundary), network-pre.target $(entered network-pre.target), links $(began links)"
	journalctl --no-pager --boot | grep -i 'ordering cycle' && fail "an ordering cycle"
	[[ " $(systemctl show --property After --value systemd-networkd) " == *' network-pre.target '* ]] || fail "systemd-networkd does not wait for network-pre.target"
	[[ $(grep -c '^-A FORWARD .*SMARTNAT' /root/at-links) == 2 && $(grep -c 'forw.* = 1' /root/at-links) == 2 ]] ||
		fail "the host did not forward, or there was no boundary, when the links were created: $(cat /root/at-links)"
	within 60 sent 200 || fail "the neighbour sent too little"
	[[ $(reached) == "0 0" ]] || fail "$(reached) packets of the neighbour reached the pod"
	ok "the boundary is up before the links: no packet of a neighbour reaches a pod, from the first moment on"

	local version before
	for version in later smartnat; do
		before="$(systemctl show --property MainPID --value smartnatd)"
		install_package "$version" || fail "$version: cannot be installed"
		within 60 restarted "$before" || fail "$version: not restarted"
		case $version in
		later) smartnatd version | grep -q '99\.0\.0' || fail "the upgrade" ;;
		*) smartnatd version | grep -q '99\.0\.0' && fail "the downgrade" ;;
		esac
	done
	[[ $(reached) == "0 0" ]] || fail "$(reached) packets of the neighbour reached the pod during upgrade and downgrade"
	ok "upgraded and downgraded while the relay is unreachable, and no packet gets through"

	smartnatd cleanup >/dev/null 2>&1 && fail "cleanup while smartnatd runs"
	systemctl stop smartnatd
	smartnatd cleanup >/dev/null || fail "cleanup"
	within 60 both_reach || fail "the neighbour cannot reach the pod even without the boundary, so the checks above prove nothing: $(reached)"
	systemctl start --no-block smartnatd
	within 60 systemctl --quiet is-active smartnatd || fail "smartnatd does not start again"
	systemctl stop smartnatd
	smartnatd cleanup >/dev/null || fail "cleanup"
	remove_package || fail "cannot be removed"
	[[ -z $(systemctl list-unit-files --no-legend 'smartnat*') && -z $(systemctl list-units --all --no-legend 'smartnat*') ]] ||
		fail "units are left: $(systemctl list-unit-files --no-legend 'smartnat*') $(systemctl list-units --all --no-legend 'smartnat*')"
	case $kind in
	deb) want='/etc/smartnat' ;;
	rpm) want=$'/etc/smartnat\n/etc/smartnat.yaml.rpmsave\n/run/smartnat\n/run/smartnat/smartnatd.iptables\n/run/smartnat/smartnatd.pid\n/var/lib/smartnat' ;;
	esac
	[[ $(left) == "$want" ]] || fail "files are left: $(left)"
	rules | grep SMARTNAT && fail "rules are left"
	nft list tables | grep smartnat && fail "tables are left"
	[[ -z $(ip route show table all proto 83) && -z $(ip -6 route show table all proto 83) ]] || fail "routes are left"
	[[ $(ip rule | wc -l) == 3 && $(ip -6 rule | wc -l) == 2 ]] || fail "policy rules are left: $(ip rule; ip -6 rule)"
	ok "removed after a cleanup: no unit, no rule, no route, and only the administrator's own files"
}

what="$1" backend="${2:-}" kind="${3:-}"
"$what"

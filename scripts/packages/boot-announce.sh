#!/bin/bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Boots a gateway that announces an address by BIRD, with the drop-in and the config of BIRD that systemd/README.md shows:
#   prepare   in the root before it boots: installs the deb, and configures it and BIRD
#   see       after the boot: checks what BIRD has as units start, stop and fail
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

ok() { echo "ok    boot: announce: $*"; }
fail() {
	echo "FAIL  boot: announce: $*"
	systemctl --no-pager --lines 20 status smartnatd bird || true
	exit 1
}
within() { # SECONDS COMMAND...: retries the command until it succeeds or the time is over
	local i
	for ((i = 0; i < $1 * 10; i++)); do
		"${@:2}" && return
		sleep 0.1
	done
	return 1
}
block() { # TEXT: prints the block of README.md that has the text
	awk -v text="$1" '/^```/ { if (inside && index(kept, text)) printf "%s", kept; inside = !inside; kept = ""; next } inside { kept = kept $0 "\n" }' /root/README.md
}
announced() { birdc show route 2>/dev/null | grep -q '^203\.0\.113\.1/32'; }
withdrawn() { ! announced; }
restarted() { # PID: reports whether smartnatd runs as another process, and announces by itself: it begins with nothing
	[[ $(systemctl show --property MainPID --value smartnatd) != "$1" ]] && smartnatd status 2>/dev/null | grep -q '^announces  *203\.0\.113\.1$'
}

prepare() {
	dpkg -i /root/smartnat.deb >/dev/null 2>&1 </dev/null
	mkdir -p /etc/smartnat/objects /etc/systemd/system/smartnatd.service.d
	cat >/etc/smartnat.yaml <<-END
		source: {files: {paths: [/etc/smartnat/objects]}}
		uplinks:
		- {interface: up0, gateway: 198.51.1.1}
		standbyAddresses: [203.0.113.1]
		announce:
		  networks: [203.0.113.0/28]
	END
	cat >/etc/smartnat/objects/web.yaml <<-END
		apiVersion: smartnat.aureacentral.com/v1alpha1
		kind: Mapping
		metadata: {name: web, namespace: shop}
		spec: {addresses: [203.0.113.1], serviceName: web, ports: [{port: 80}]}
		---
		apiVersion: v1
		kind: Service
		metadata: {name: web, namespace: shop}
		spec: {clusterIP: 10.96.0.80, ports: [{port: 80}]}
	END
	block 'ReadWritePaths=-/run/smartnat-announce' >/etc/systemd/system/smartnatd.service.d/bird.conf
	block '# bird.conf of a gateway' >/etc/bird/bird.conf
	block '/etc/tmpfiles.d/' >/root/folder.sh
	for file in /etc/systemd/system/smartnatd.service.d/bird.conf /etc/bird/bird.conf /root/folder.sh; do
		[[ -s $file ]] || fail "README.md has no block for $file"
	done
	# The folder is made at the boot, as it is on a host that has the file.
	sed 's/^systemd-tmpfiles .*//' /root/folder.sh | bash -e
	cat >/etc/systemd/system/links.service <<-END
		[Unit]
		DefaultDependencies=no
		Wants=network-pre.target network.target
		After=local-fs.target network-pre.target
		Before=network.target network-online.target
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart=/root/boot-announce.sh links
		[Install]
		WantedBy=multi-user.target
	END
	systemctl --quiet enable links smartnatd bird
}

links() {
	ip link add up0 type veth peer name router
	ip link set router up
	ip address add 198.51.1.2/30 dev up0
	ip link set up0 up
	ip link add in0 type veth peer name node
	ip link set node up
	ip address add 10.10.0.2/24 dev in0
	ip link set in0 up
	ip route add 10.96.0.0/16 dev in0
}

see() {
	local before
	within 60 systemctl --quiet is-active multi-user.target || fail "multi-user.target was not reached"
	within 60 announced || fail "BIRD does not have the address after the boot: $(birdc show route 2>&1)"
	journalctl --no-pager --boot | grep -i 'ordering cycle' && fail "an ordering cycle"
	smartnatd status | grep -q '^announces  *203\.0\.113\.1$' || fail "the status does not say so: $(smartnatd status)"
	ok "BIRD has the address after the boot, by the drop-in of README.md"

	systemctl restart bird
	within 60 announced || fail "BIRD does not have the address after its restart"
	systemctl stop smartnatd
	within 10 withdrawn || fail "the address stays while smartnatd is stopped"
	systemctl start smartnatd
	within 60 announced || fail "the address does not come back with smartnatd"
	ok "the address stays with BIRD, and goes and comes with smartnatd"

	systemctl stop bird
	systemctl restart smartnatd || fail "smartnatd does not start without BIRD"
	within 60 systemctl --quiet is-active bird || fail "smartnatd does not start BIRD"
	within 60 announced || fail "BIRD does not have the address once it runs"
	before="$(systemctl show --property MainPID --value smartnatd)"
	systemctl kill --signal=KILL smartnatd
	within 60 restarted "$before" || fail "systemd does not start smartnatd again"
	within 60 announced || fail "smartnatd does not announce again after it was killed"
	ok "the address comes back after a start without BIRD, and after smartnatd was killed"

	mv /etc/smartnat/objects/web.yaml /root/
	within 60 withdrawn || fail "the address stays without its Mapping"
	systemd-tmpfiles --create smartnat-announce.conf || fail "systemd-tmpfiles"
	[[ $(stat -c '%U %a' /run/smartnat-announce) == "root 755" ]] || fail "/run/smartnat-announce is $(stat -c '%U %a' /run/smartnat-announce)"
	ok "the address goes with its Mapping"
}

"$1"

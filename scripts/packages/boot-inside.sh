#!/bin/bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs as root on the Debian that boot.sh boots, which has no network.
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
held() { # prints the table that holds connections, without the process name, which nft looks up
	nft -a list table inet smartnat-hold 2>/dev/null | sed 's/ progname .*//'
}
host() { # prints all state that smartnatd may change
	rules
	ip rule
	ip route show table all
	settings
}

sysctl -q -w net.ipv4.conf.all.rp_filter=1
ip netns add client
ip link add eth1 type veth peer name provider netns client
ip -n client link set lo up
ip -n client address add 198.51.100.1/24 dev provider
ip -n client link set provider up
ip address add 198.51.100.10/24 dev eth1
ip link set eth1 up
sysctl -q -w net.ipv4.conf.eth1.rp_filter=1

# The pod is a network namespace; the node that ClusterIPs are routed to is another address of it.
ip netns add pod
ip link add cluster type veth peer name eth0 netns pod
ip -n pod link set lo up
ip -n pod address add 10.244.1.10/24 dev eth0
ip -n pod address add 10.244.1.11/24 dev eth0
ip -n pod link set eth0 up
ip -n pod route add default via 10.244.1.1
ip address add 10.244.1.1/24 dev cluster
ip link set cluster up

apt-get -qq install -y /root/smartnat.deb >/dev/null
[[ $(systemctl is-enabled smartnatd || true) == disabled && $(systemctl is-active smartnatd || true) == inactive ]] || fail "the package starts or enables smartnatd"
[[ $(sysctl -n net.ipv4.ip_forward) == 0 ]] || fail "the package alone makes the host a router"
ok "apt installs it, starts nothing and changes nothing"

systemctl start smartnatd 2>/dev/null && fail "smartnatd starts with an unedited config"
journalctl --no-pager --unit smartnatd | grep -q source.relay.tokenFile || fail "the journal does not name the key"
[[ $(systemctl is-active smartnatd || true) == activating ]] || fail "missing files are not retried"
systemctl stop smartnatd
ok "an unedited config is retried, and the journal names the key of each missing file"

cp -a /etc/smartnat.yaml /root/unedited.yaml
echo 'uplink: []' >>/etc/smartnat.yaml
systemctl start smartnatd 2>/dev/null && fail "smartnatd starts with an error in the config"
[[ $(systemctl is-failed smartnatd) == failed ]] || fail "an error in the config is retried"
systemctl reset-failed smartnatd
cp -a /root/unedited.yaml /etc/smartnat.yaml
ok "an error in the config ends it"

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
serviceRoutes:
- {destination: 10.96.0.0/16, via: [10.244.1.11]}
END

for backend in nft legacy; do
	update-alternatives --quiet --set iptables "/usr/sbin/iptables-$backend"
	update-alternatives --quiet --set ip6tables "/usr/sbin/ip6tables-$backend"
	rules >/dev/null # creates the tables, so that later dumps show them, if empty
	iptables-save -t nat >/dev/null
	settings >/root/settings
	ip rule >/root/ip-rule

	smartnatd check >/root/check || (($? == 1)) || { cat /root/check; fail "$backend: check"; }
	grep -q '^ok      iptables rules: tried' /root/check || { cat /root/check; fail "$backend: check does not try rules"; }
	timeout 60 systemctl start smartnatd || fail "$backend: start"
	runuser -u daemon -G smartnat -- smartnatd status >/root/asked 2>&1 || { cat /root/asked; fail "$backend: a member of the group smartnat cannot ask"; }
	runuser -u daemon -- smartnatd status >/root/asked 2>&1 && fail "$backend: any user can ask"
	grep -q 'permission denied' /root/asked || { cat /root/asked; fail "$backend: another user gets no clear answer"; }
	[[ $(stat -c '%a %G' /run/smartnat/smartnatd.pid) == '600 root' ]] || fail "$backend: the group can lock smartnatd out"
	rules | grep -q -- '--to-destination 10.96.0.5:8080' || fail "$backend: no rule although the unit is ready"
	ip rule | grep -q 7380 || fail "$backend: no ip rule although the unit is ready"
	[[ $(sysctl -n net.ipv4.ip_forward net.ipv4.conf.eth1.rp_filter | xargs) == "1 2" ]] || fail "$backend: sysctls"
	ok "$backend: started, and everything is in effect"

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
	[[ $(held) == "$held" ]] || fail "$backend: nothing holds connections after a kill"
	for ((i = 0; i < 100; i++)); do
		sleep 0.2
		[[ $(systemctl is-active smartnatd || true) != active || $(systemctl show --property MainPID --value smartnatd) == "$killed" ]] || break
	done
	((i < 100)) || fail "$backend: not restarted after a kill"
	diff /root/before <(host) || fail "$backend: the kernel differs after a kill and restart"
	[[ $(held) == "$held" ]] || fail "$backend: another table holds connections after a kill and restart"
	systemctl restart smartnatd
	[[ $(held) == "$held" ]] || fail "$backend: another table holds connections after a restart"
	cp /etc/smartnat.yaml /root/smartnat.yaml
	echo 'ipv6: false' >>/etc/smartnat.yaml
	systemctl restart smartnatd
	[[ $(nft list tables | grep smartnat-hold) == "table ip smartnat-hold" ]] || fail "$backend: another table holds connections after a restart without IPv6"
	cp /root/smartnat.yaml /etc/smartnat.yaml
	systemctl restart smartnatd
	[[ $(nft list tables | grep smartnat-hold) == "table inet smartnat-hold" ]] || fail "$backend: another table holds connections after a restart with IPv6 again"
	systemctl stop smartnatd
	nft list tables | grep smartnat-hold && fail "$backend: the table that holds connections is left after a stop"
	diff /root/before <(host) || fail "$backend: the kernel differs after a stop"
	ok "$backend: killed, all rules flushed, restarted and stopped, and the kernel is the same; connections are held until the stop"

	smartnatd cleanup >/dev/null
	rules | grep SMARTNAT && fail "$backend: cleanup left rules"
	diff /root/settings <(settings) || fail "$backend: cleanup left sysctls"
	diff /root/ip-rule <(ip rule) || fail "$backend: cleanup left ip rules"
	[[ -z $(ip route show table all proto 83) ]] || fail "$backend: cleanup left routes"
	ok "$backend: cleanup leaves nothing"
done

# Upgrade and downgrade under traffic.
cat >>/etc/smartnat/objects/echo.yaml <<'END'
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: pod}
spec:
  addresses: [198.51.100.10]
  serviceName: pod
  mode: endpoints
  ports: [{port: 7777}]
---
apiVersion: v1
kind: Service
metadata: {name: pod}
spec:
  clusterIP: 10.96.0.6
  selector: {app: pod}
  ports: [{port: 7777}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pod-1, labels: {kubernetes.io/service-name: pod}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.10], conditions: {ready: true}}]
ports: [{name: "", port: 7777, protocol: TCP}]
END
systemctl --quiet enable --now smartnatd
ip netns exec pod perl /root/boot-traffic.pl serve 7777 &
for ((i = 0; i < 600; i++)); do
	[[ -z $(ip netns exec pod ss -Hltn 'sport = :7777') ]] || break
	sleep 0.1
done
ip netns exec client perl /root/boot-traffic.pl ask 198.51.100.10 7777 /root/traffic &
asking=$!
for ((i = 0; i < 100; i++)); do
	[[ ! -s /root/traffic ]] || break
	sleep 0.1
done
[[ -s /root/traffic ]] || fail "no traffic before the upgrade"
echo '# mine' >>/etc/smartnat.yaml
for version in later smartnat; do
	before="$(systemctl show --property MainPID --value smartnatd)"
	apt-get -qq install -y --allow-downgrades "/root/$version.deb" >/dev/null 2>&1 </dev/null || fail "$version.deb: asked or failed"
	for ((i = 0; i < 200; i++)); do
		[[ $(systemctl is-active smartnatd || true) != active || $(systemctl show --property MainPID --value smartnatd) == "$before" ]] || break
		sleep 0.1
	done
	((i < 200)) || fail "$version.deb: not restarted"
	asked="$(wc -l </root/traffic)"
	for ((i = 0; i < 100 && $(wc -l </root/traffic) < asked + 10; i++)); do
		sleep 0.1
	done
done
kill "$asking"
grep -m 3 -v '^ok' /root/traffic && fail "an upgrade or a downgrade loses connections"
[[ $(grep -c '^ok' /root/traffic) -ge 20 ]] || fail "too few requests: $(wc -l </root/traffic)"
[[ $(tail -n 1 /etc/smartnat.yaml) == '# mine' ]] || fail "an upgrade replaces an edited config"
[[ $(smartnatd version) != *99.0.0* ]] || fail "the downgrade left the later version"
ok "upgraded and downgraded: no question, and none of $(wc -l </root/traffic) new connections and one long-lived one lost"

apt-get -qq remove -y smartnat >/dev/null 2>&1
[[ $(systemctl is-active smartnatd || true) == inactive && ! -e /usr/sbin/smartnatd ]] || fail "still running after a removal"
rules | grep -q -- '--to-destination 10.244.1.10:7777' || fail "a removal ends the traffic"
[[ -e /etc/smartnat.yaml ]] || fail "a removal deletes the config"
ok "removed: the daemon is stopped, and programmed rules keep forwarding"
apt-get -qq install -y /root/smartnat.deb >/dev/null 2>&1 </dev/null
systemctl --quiet enable --now smartnatd

apt-get -qq purge -y smartnat >/dev/null 2>&1
[[ $(systemctl is-active smartnatd || true) == inactive ]] || fail "still running after a purge"
[[ ! -e /etc/smartnat.yaml && ! -e /var/lib/smartnat ]] || fail "a purge leaves files"
ok "purged: stopped and gone"

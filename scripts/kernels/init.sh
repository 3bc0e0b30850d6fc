#!/bin/sh
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# The first process on a kernel under test, and its only one but for the suites: it runs them one by one, and powers off.
# Lines that begin with @ are for run.sh: the kernel, the start of a suite, its end with the exit status, and the end of all.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for dir in /run /tmp; do mount -t tmpfs tmpfs $dir; done
hostname kernels
ip link set lo up
# Kernel messages go to the first port, so that none lands inside a line of a test.
stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1

echo "@kernel $(uname -r)"
# In a network namespace of its own, which ends with the command.
if unshare -n sh -c 'ip link set lo up && nft add table inet try "{ flowtable f { hook ingress priority 0; devices = { lo }; }; chain c { type filter hook forward priority 0; meta l4proto tcp flow add @f; }; }"'; then
	echo "@flowtable yes"
else
	echo "@flowtable no"
fi

# No rule loads these, so an administrator does.
modprobe -a br_netfilter nf_nat_ftp nf_nat_tftp

# As in `make test`: a missing program is a failure.
export SMARTNAT_REQUIRE_ALL=1
# Prepared paths keep the lab from building anything: there is no Go here, and no control plane.
export SMARTNAT_LAB_REPO=/src SMARTNAT_LAB_KUBE=/none SMARTNAT_LAB_BIN=/usr/local/sbin
# An emulated processor takes longer.
export SMARTNAT_LAB_EMULATED=1
while read -r suite; do
	echo "@suite $suite"
	cd "/src/$suite" || continue
	status=0
	# run.sh waits no longer than its own limit for the next line, so that there is one limit only.
	# shellcheck disable=SC2046 # flags of the caller, without spaces
	"/tests/$(echo "$suite" | tr / -)" -test.v -test.count 1 -test.timeout 0 $(cat /flags) </dev/null || status=$?
	echo "@end $suite $status"
done </suites
echo "@done"
sync
poweroff -f

#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Enrolls a gateway, so that it can follow a cluster through its relay, or revokes it. It runs kubectl as an administrator of the cluster.
#   enroll.sh NAME [OPTION...]   creates a ServiceAccount NAME that may read from the relay, and writes the files for the gateway
#                                into the folder NAME: smartnat.yaml, ca.crt, token. Run it again to renew the token
#   enroll.sh --revoke NAME      revokes it: its requests are refused and its open watches end within a minute
# Options:
#   --server URL        a URL by which the gateway reaches the relay, may be given several times; by default derived from the Service
#                       and the nodes
#   --server-name NAME  the name in the relay's certificate (smartnat-relay.NAMESPACE.svc)
#   --ca FILE           the authority of the relay's certificate; by default from the Secret smartnat-relay-tls
#   --duration TIME     the lifetime of the token; the cluster may shorten it (8760h)
#   --namespace NAME    the namespace of the relay (smartnat)
#   --output FOLDER     the folder to write to (NAME)
# The environment selects the cluster: KUBECONFIG, and KUBECTL for another program or additional flags.
set -euo pipefail

say() { echo "enroll: $*" >&2; }
fail() {
	say "$*"
	exit 1
}
usage() {
	sed -n '/^#   enroll/,/^# The environment/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
}

name='' namespace=smartnat server_name='' ca='' duration=8760h output='' revoke=
servers=()
while (($# > 0)); do
	if [[ $1 == --*=* ]]; then
		set -- "${1%%=*}" "${1#*=}" "${@:2}"
	fi
	case $1 in
	--revoke) revoke=1 && shift && continue ;;
	--server | --server-name | --ca | --duration | --namespace | --output) (($# > 1)) || usage ;;
	-*) usage ;;
	*)
		[[ -z $name ]] || usage
		name=$1 && shift && continue
		;;
	esac
	case $1 in
	--server) servers+=("$2") ;;
	--server-name) server_name=$2 ;;
	--ca) ca=$2 ;;
	--duration) duration=$2 ;;
	--namespace) namespace=$2 ;;
	--output) output=$2 ;;
	esac
	shift 2
done
[[ -n $name ]] || usage
[[ $name =~ ^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$ ]] || fail "'$name' is not a valid name: use lower-case letters, digits and dashes"
label=smartnat.aureacentral.com/gateway
binding=smartnat-gateway-$name
read -ra kubectl <<<"${KUBECTL:-kubectl}"
in_cluster() { "${kubectl[@]}" "$@"; }
in_namespace() { in_cluster --namespace="$namespace" "$@"; }

# Do not enroll or revoke a ServiceAccount that this script did not create.
account=$(in_namespace get serviceaccount "$name" --ignore-not-found --output="jsonpath={.metadata.name} {.metadata.labels.${label//./\\.}}")
if [[ -n $account && $account != "$name $name" ]]; then
	fail "the ServiceAccount $name of the namespace $namespace does not belong to a gateway: choose another name"
fi

if [[ -n $revoke ]]; then
	in_cluster delete clusterrolebinding "$binding" --ignore-not-found >&2
	in_namespace delete serviceaccount "$name" --ignore-not-found >&2
	say "$name is revoked"
	exit
fi

# found_servers prints the URLs of the relay's load balancer, or of its port on the nodes.
found_servers() {
	local type port address addresses
	type=$(in_namespace get service smartnat-relay --output='jsonpath={.spec.type}')
	if [[ $type == LoadBalancer ]]; then
		port=$(in_namespace get service smartnat-relay --output='jsonpath={.spec.ports[0].port}')
		addresses=$(in_namespace get service smartnat-relay --output='jsonpath={.status.loadBalancer.ingress[*].hostname} {.status.loadBalancer.ingress[*].ip}')
	else
		port=$(in_namespace get service smartnat-relay --output='jsonpath={.spec.ports[0].nodePort}')
		addresses=$(in_cluster get nodes --output='jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}')
	fi
	[[ -n $port ]] || return 0
	# A few nodes are enough: each of them leads to every replica.
	read -ra addresses <<<"$addresses"
	for address in "${addresses[@]:0:3}"; do
		[[ $address != *:* ]] || address="[$address]"
		echo "https://$address:$port"
	done
}
if ((${#servers[@]} == 0)); then
	mapfile -t servers < <(found_servers)
	((${#servers[@]} > 0)) || fail "found no address of the relay: please give --server https://HOST:PORT"
fi
for server in "${servers[@]}"; do
	[[ $server =~ ^https://[][A-Za-z0-9.:-]+$ ]] || fail "--server: '$server' is not https://HOST:PORT"
done
[[ -n $server_name ]] || server_name=smartnat-relay.$namespace.svc

umask 077
output=${output:-$name}
mkdir -p "$output"
if [[ -n $ca ]]; then
	cp "$ca" "$output/ca.crt"
else
	in_namespace get secret smartnat-relay-tls --ignore-not-found --output='jsonpath={.data.ca\.crt}' | base64 -d >"$output/ca.crt"
fi
grep -q 'BEGIN CERTIFICATE' "$output/ca.crt" || fail "the Secret smartnat-relay-tls has no certificate authority: please give --ca FILE"

in_cluster apply --filename=- >&2 <<END
apiVersion: v1
kind: ServiceAccount
metadata:
  name: $name
  namespace: $namespace
  labels: {app.kubernetes.io/part-of: smartnat, $label: "$name"}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: $binding
  labels: {app.kubernetes.io/part-of: smartnat, $label: "$name"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: smartnat-gateway}
subjects:
- {kind: ServiceAccount, name: $name, namespace: $namespace}
END

# The token is valid only for the relay: the cluster's own API server does not accept it.
in_namespace create token "$name" --audience=smartnat-relay --duration="$duration" >"$output/token.new"
mv "$output/token.new" "$output/token"
{
	echo "# Written by enroll.sh for the gateway $name: add uplinks and other keys, see /usr/share/doc/smartnat."
	echo "instance: $name"
	echo "source:"
	echo "  relay:"
	echo "    servers:"
	printf '    - "%s"\n' "${servers[@]}"
	echo "    serverName: $server_name"
	echo "    caFile: /etc/smartnat/ca.crt"
	echo "    tokenFile: /etc/smartnat/token"
} >"$output/smartnat.yaml"
# The middle part of the token says when it expires.
payload=$(cut -d. -f2 "$output/token" | tr '_-' '/+')
while ((${#payload} % 4 > 0)); do payload+="="; done
expires=$(base64 -d <<<"$payload" | grep -o '"exp":[0-9]*' | cut -d: -f2)
say "$name may follow the cluster until $(date -u -d "@$expires" '+%F %R UTC'); run this again before that to renew the token"
say "copy $output/smartnat.yaml to /etc/smartnat.yaml, $output/ca.crt and $output/token to /etc/smartnat/ on the gateway"

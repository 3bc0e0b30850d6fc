// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package config turns /etc/smartnat.yaml and the environment into a validated Config. It reports all problems at once, one
// line each with the place, the key and a remedy. It is pure except for reading the given file (and CheckFiles, which reads the
// files that it names): it starts nothing, and knows neither the host nor the cluster.
//
// Each key has an environment variable, which takes precedence over the file: SMARTNAT_ and the key in upper case with an
// underscore for each dot. An empty variable counts as not set. Lists are separated by commas; lists of objects are written as
// YAML:
//
//	SMARTNAT_INSTANCE=gw1
//	SMARTNAT_SOURCE_RELAY_SERVERS=https://10.10.0.11:8443,https://10.10.0.12:8443
//	SMARTNAT_SOURCE_RELAY_CAFILE=/etc/smartnat/ca.crt
//	SMARTNAT_SOURCE_RELAY_SERVERNAME=smartnat-relay
//	SMARTNAT_SOURCE_RELAY_TOKENFILE=/etc/smartnat/token
//	SMARTNAT_SOURCE_RELAY_CERTFILE=/etc/smartnat/client.crt
//	SMARTNAT_SOURCE_RELAY_KEYFILE=/etc/smartnat/client.key
//	SMARTNAT_SOURCE_KUBECONFIG_PATH=/etc/smartnat/kubeconfig
//	SMARTNAT_SOURCE_KUBECONFIG_CONTEXT=production
//	SMARTNAT_SOURCE_FILES_PATHS=/etc/smartnat/objects
//	SMARTNAT_UPLINKS=[{interface: eth1, gateway: 198.51.100.1}, {interface: "wan*", gatewayOffset: 1}]
//	SMARTNAT_SERVICEROUTES=[{destination: 10.96.0.0/16, via: [10.10.0.11, 10.10.0.12]}]
//	SMARTNAT_MASQUERADE=true
//	SMARTNAT_MASQUERADEPORTS=1024-65535
//	SMARTNAT_HELPERS_FTP=21
//	SMARTNAT_HELPERS_TFTP=69
//	SMARTNAT_CLAMPMSS=false
//	SMARTNAT_FORWARDEDONLY=false
//	SMARTNAT_MAXPORTSPERMAPPING=32768
//	SMARTNAT_MAXPORTSPERNAMESPACE=65536
//	SMARTNAT_MAXRULESPERMAPPING=32768
//	SMARTNAT_MAXRULESPERNAMESPACE=131072
//	SMARTNAT_INSIDENETWORKS=10.10.0.0/24,10.244.0.0/16
//	SMARTNAT_STANDBYADDRESSES=198.51.100.20,198.51.100.21
//	SMARTNAT_SERVEDADDRESSES=10.10.0.2
//	SMARTNAT_RESERVEDPORTS=22/tcp,179/tcp
//	SMARTNAT_BACKENDNETWORKS=10.244.0.0/16,10.96.0.0/16
//	SMARTNAT_ENDPOINTSWITHOUTSELECTOR=false
//	SMARTNAT_RESYNC=30s
//	SMARTNAT_STARTTIMEOUT=30s
//	SMARTNAT_STATEDIR=/var/lib/smartnat
//	SMARTNAT_RUNTIMEDIR=/run/smartnat
//	SMARTNAT_IPV6=true
//	SMARTNAT_DATAPLANE=auto
//	SMARTNAT_FLOWTABLE=auto
//	SMARTNAT_IPTABLES_VARIANT=auto
//	SMARTNAT_IPTABLES_LOCKTIMEOUT=5s
//	SMARTNAT_OWNERSHIP_CHAINPREFIX=SMARTNAT-
//	SMARTNAT_OWNERSHIP_MARKMASK=0x1ff0
//	SMARTNAT_OWNERSHIP_ROUTINGTABLE=7380
//	SMARTNAT_OWNERSHIP_RULEPRIORITY=7380
//	SMARTNAT_OWNERSHIP_ROUTEPROTOCOL=83
//	SMARTNAT_OWNERSHIP_SETPREFIX=smartnat-
//	SMARTNAT_LOG_LEVEL=info
//	SMARTNAT_LOG_FORMAT=text
//	SMARTNAT_METRICS_ADDRESS=127.0.0.1:9470
package config

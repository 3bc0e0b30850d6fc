// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// FuzzLoad reads arbitrary files: no panic, errors that name the file, and no invalid config.
func FuzzLoad(f *testing.F) {
	delivered, err := os.ReadFile("../../systemd/smartnat.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		whole, string(delivered), "", "---", "- a", "{}", "a: b: c", "a: &a [*a]", "? {a: b}\n: c", "source: {files: {paths: [/objects]}}\n---\n",
		"instance: gw1\nsource: {files: {paths: [/objects]}}\nresync: 30\nownership: {markMask: 0x1ff0, routingTable: 1e3}",
		"instance: gw1\nsource: {kubeconfig: {path: /k}}\nuplinks: [{interface: '/(/'}, {interface: 'eth['}, ~]\nserviceRoutes: [~, {via: [~]}]",
		"source: &s {files: {paths: [/objects]}}\nlog: *s\n<<: *s", "instance: !!binary aGVsbG8=\nresync: !!float .inf\nmasquerade: yes",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := parse("the-file", text, noEnvironment)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if strings.HasPrefix(line, "the-file") {
					return
				}
			}
			t.Errorf("no line of the error names the file: %v", err)
			return
		}
		if errs := cfg.validate(); len(errs) > 0 {
			t.Errorf("accepted, but invalid: %v", errs.ToAggregate())
		}
	})
}

// FuzzEnvironment sets one key by its variable, over a valid file: no panic, an error that names the variable, and no invalid
// config.
func FuzzEnvironment(f *testing.F) {
	const text = "instance: gw1\nsource: {relay: {servers: ['https://10.10.0.11:8443'], tokenFile: /token}}"
	keys := leafKeys(reflect.TypeFor[document](), "")
	for i, k := range keys {
		for _, value := range []string{"x", "-1", "0x1ff0", "[", "[{}]", "[~]", "{a: b}", "a,,b", " ", "\x00", "10.0.0.1/8", "1h", "true", "null"} {
			f.Add(uint8(i), value)
		}
		if k.name == "uplinks" {
			f.Add(uint8(i), `[{interface: eth1, gateway: 198.51.100.1}, {interface: eth2, gateways: [203.0.113.1, "2001:db8::1"]}]`)
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, value string) {
		name := variable(keys[int(n)%len(keys)].name)
		cfg, err := parse("the-file", []byte(text), func(asked string) string {
			if asked == name {
				return value
			}
			return ""
		})
		if err != nil && !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), "the-file") {
			t.Errorf("%s=%q: neither variable nor file is named: %v", name, value, err)
		}
		if err == nil {
			if errs := cfg.validate(); len(errs) > 0 {
				t.Errorf("%s=%q: accepted, but invalid: %v", name, value, errs.ToAggregate())
			}
		}
	})
}

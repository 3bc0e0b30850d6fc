// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// call is a call of a program: its words, and its flags, of which some have no value.
type call struct {
	program string
	words   []string
	flags   map[string]string
}

// flags are those of each command that hooks use, by the documents of the clouds. True means a value.
var flags = map[string]map[string]bool{
	"aws ec2 assign-private-ip-addresses": {"--region": true, "--network-interface-id": true, "--allow-reassignment": false, "--private-ip-addresses": true},
	"aws ec2 assign-ipv6-addresses":       {"--region": true, "--network-interface-id": true, "--ipv6-addresses": true},
	"aws ec2 unassign-ipv6-addresses":     {"--region": true, "--network-interface-id": true, "--ipv6-addresses": true},
	"aws ec2 describe-network-interfaces": {"--region": true, "--filters": true, "--query": true, "--output": true},
	"gcloud compute instances describe":   {"--zone": true, "--flatten": true, "--format": true},
	"gcloud compute instances network-interfaces update": {
		"--zone": true, "--network-interface": true, "--aliases": true, "--quiet": false,
	},
	"az login":                        {"--identity": false, "--output": true},
	"az network nic ip-config list":   {"--resource-group": true, "--nic-name": true, "--query": true, "--output": true},
	"az network nic ip-config delete": {"--resource-group": true, "--nic-name": true, "--name": true},
	"az network nic ip-config create": {
		"--resource-group": true, "--nic-name": true, "--name": true, "--private-ip-address": true, "--private-ip-address-version": true,
		"--public-ip-address": true, "--output": true,
	},
	"curl": {"-sS": false, "--fail": false, "--max-time": true, "--header": true, "--request": true, "--data": true, "--config": true},
}

// parse returns the call that a command line makes.
func parse(args []string) (call, error) {
	c := call{program: filepath.Base(args[0]), flags: map[string]string{}}
	known, name := flags[c.program], c.program
	for i := 1; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			if more := name + " " + args[i]; known == nil {
				name, known = more, flags[more]
			} else {
				c.words = append(c.words, args[i])
			}
			continue
		}
		valued, ok := known[args[i]]
		flag := args[i]
		if _, again := c.flags[flag]; !ok || again && flag != "--header" {
			return c, fmt.Errorf("%s: wrong flag %s", name, flag)
		}
		value := ""
		if valued {
			if i++; i == len(args) {
				return c, fmt.Errorf("%s: %s has no value", name, flag)
			}
			value = args[i]
		}
		c.flags[flag] += value
	}
	if known == nil {
		return c, fmt.Errorf("no command %s", name)
	}
	c.program = name
	return c, nil
}

// clouds answer calls and change a state, whose keys are in a file.
var clouds = map[string]func(c call, input string, state map[string]string) (string, error){
	"aws": aws, "gcp": gcp, "azure": azure, "hetzner": hetzner,
}

var errTaken = errors.New("the address belongs to another interface")

func standIn(args []string, cloud string, in io.Reader, out, problems io.Writer) int {
	c, err := parse(args)
	answer := ""
	if err == nil && os.Getenv("FAIL") != "" {
		err = errors.New("fails")
	}
	if err == nil {
		input := []byte{}
		if c.flags["--config"] == "-" {
			if input, err = io.ReadAll(in); err != nil {
				return 1
			}
		}
		state := load()
		if answer, err = clouds[cloud](c, string(input), state); err == nil {
			err = save(state, strings.Join(args, " "))
		}
	}
	if err != nil {
		fmt.Fprintf(problems, "%s: %v\n", strings.Join(args, " "), err)
		return 22
	}
	fmt.Fprintln(out, answer)
	return 0
}

func load() map[string]string {
	state := map[string]string{}
	text, _ := os.ReadFile("state") // none at first
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		state[key] = value
	}
	return state
}

func save(state map[string]string, line string) error {
	text := ""
	for _, key := range slices.Sorted(maps.Keys(state)) {
		text += key + " " + state[key] + "\n"
	}
	calls, err := os.OpenFile("calls", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer calls.Close()
	_, err = fmt.Fprintln(calls, line)
	return errors.Join(err, os.WriteFile("state", []byte(text), 0o600))
}

// answers returns the answer for a URL with this header.
func (c call) answers(header string, urls map[string]string) (string, error) {
	if len(c.words) != 1 || c.flags["--header"] != header || c.flags["--fail"] != "" || c.flags["--max-time"] == "" {
		return "", fmt.Errorf("wrong request: %v", c)
	}
	answer, known := urls[c.flags["--request"]+c.words[0]]
	if !known {
		return "", errors.New("404")
	}
	return answer, nil
}

func aws(c call, input string, state map[string]string) (string, error) {
	const imds = "http://169.254.169.254/latest/"
	if c.program == "curl" {
		if c.flags["--request"] == "PUT" {
			return c.answers("X-aws-ec2-metadata-token-ttl-seconds: 300", map[string]string{"PUT" + imds + "api/token": "t0ken"})
		}
		if input != "header = \"X-aws-ec2-metadata-token: t0ken\"\n" {
			return "", fmt.Errorf("wrong header: %q", input)
		}
		return c.answers("", map[string]string{
			imds + "meta-data/placement/region":                                       "eu-central-1",
			imds + "meta-data/network/interfaces/macs/00:00:00:00:00:00/interface-id": "eni-own",
		})
	}
	if c.flags["--region"] != "eu-central-1" {
		return "", errors.New("wrong region")
	}
	id, address := c.flags["--network-interface-id"], c.flags["--ipv6-addresses"]+c.flags["--private-ip-addresses"]
	holder := state[address]
	switch c.program {
	case "aws ec2 describe-network-interfaces":
		address, ok := strings.CutPrefix(c.flags["--filters"], "Name=ipv6-addresses.ipv6-address,Values=")
		if !ok || c.flags["--output"] != "text" {
			return "", errors.New("wrong question")
		}
		if state[address] == "" {
			return "None", nil
		}
		return state[address], nil
	case "aws ec2 unassign-ipv6-addresses":
		if holder != id {
			return "", errors.New("not assigned")
		}
		delete(state, address)
		return "", nil
	}
	_, forced := c.flags["--allow-reassignment"]
	if holder != "" && holder != id && !forced {
		return "", errTaken
	}
	state[address] = id
	return "", nil
}

func gcp(c call, _ string, state map[string]string) (string, error) {
	const at = "http://metadata.google.internal/computeMetadata/v1/instance/"
	if c.program == "curl" {
		urls := map[string]string{
			at + "name": "own", at + "zone": "projects/1/zones/zone-a", at + "network-interfaces/": "0/\n1/",
			at + "network-interfaces/0/mac": "00:00:00:00:00:00", at + "network-interfaces/1/mac": "02:00:00:00:00:01", at + "network-interfaces/0/ip-aliases/": "",
		}
		if held := state["own/zone-a/nic0"]; held != "" {
			urls[at+"network-interfaces/0/ip-aliases/"] = "0"
			urls[at+"network-interfaces/0/ip-aliases/0"] = held
		}
		return c.answers("Metadata-Flavor: Google", urls)
	}
	if len(c.words) != 1 {
		return "", errors.New("no instance")
	}
	if c.program == "gcloud compute instances describe" {
		return gcpInterfaces(c)
	}
	key, wanted := c.words[0]+"/"+c.flags["--zone"]+"/"+c.flags["--network-interface"], c.flags["--aliases"]
	for other, held := range state {
		if other != key && wanted != "" && held == wanted {
			return "", errTaken
		}
	}
	if state[key] = wanted; wanted == "" {
		delete(state, key)
	}
	return "", nil
}

// gcpInterfaces are not in the same order on both instances.
func gcpInterfaces(c call) (string, error) {
	const subnetworks = "https://www.googleapis.com/compute/v1/projects/p/regions/r/subnetworks/"
	if c.flags["--flatten"] != "networkInterfaces[]" || c.flags["--format"] != "csv[no-heading](networkInterfaces.name,networkInterfaces.subnetwork)" {
		return "", errors.New("wrong question")
	}
	answer, known := map[string]string{
		"own/zone-a":     "nic0," + subnetworks + "outside\nnic1," + subnetworks + "inside",
		"peer/zone-b":    "nic0," + subnetworks + "inside\nnic1," + subnetworks + "outside",
		"foreign/zone-b": "nic0," + subnetworks + "outside-2",
	}[c.words[0]+"/"+c.flags["--zone"]]
	if !known {
		return "", errors.New("404")
	}
	return answer, nil
}

func azure(c call, _ string, state map[string]string) (string, error) {
	if c.program == "az login" {
		return "", nil
	}
	if c.flags["--resource-group"] != "gateways" {
		return "", errors.New("wrong resource group")
	}
	key, address := c.flags["--nic-name"]+"/"+c.flags["--name"], c.flags["--private-ip-address"]
	switch c.program {
	case "az network nic ip-config list":
		for name, held := range state {
			private, _, _ := strings.Cut(held, "+")
			if nic, config, _ := strings.Cut(name, "/"); nic == c.flags["--nic-name"] && c.flags["--query"] == "[?privateIPAddress=='"+private+"'].name" {
				return config, nil
			}
		}
		return "", nil
	case "az network nic ip-config delete":
		if _, known := state[key]; !known {
			return "", errors.New("no such config")
		}
		delete(state, key)
		return "", nil
	}
	if version := c.flags["--private-ip-address-version"]; (version == "IPv6") != strings.Contains(address, ":") {
		return "", errors.New("wrong version " + version)
	}
	for _, held := range state {
		if private, _, _ := strings.Cut(held, "+"); private == address {
			return "", errTaken
		}
	}
	if public := c.flags["--public-ip-address"]; public != "" {
		address += "+" + public
	}
	state[key] = address
	return "", nil
}

func hetzner(c call, input string, state map[string]string) (string, error) {
	const api = "https://api.hetzner.cloud/v1/"
	if len(c.words) == 1 && !strings.HasPrefix(c.words[0], api) {
		return c.answers("", map[string]string{"http://169.254.169.254/hetzner/v1/metadata/instance-id": "7"})
	}
	if input != "header = \"Authorization: Bearer secret\"\n" || len(c.words) != 1 {
		return "", errors.New("401")
	}
	body := struct {
		Server, Network int
		Aliases         []string `json:"alias_ips"`
	}{}
	if data := c.flags["--data"]; data != "" {
		if err := json.Unmarshal([]byte(data), &body); err != nil {
			return "", err
		}
	}
	switch c.flags["--request"] + " " + strings.TrimPrefix(c.words[0], api) {
	case "GET floating_ips/4711":
		holder := state["floating/4711"]
		if holder == "" {
			holder = "null"
		}
		return "{\"floating_ip\": {\"id\": 4711,\n \"server\": " + holder + ", \"type\": \"ipv4\"}}", nil
	case "POST floating_ips/4711/actions/assign":
		state["floating/4711"] = fmt.Sprint(body.Server)
		return "{}", nil
	case "POST servers/peer/actions/change_alias_ips", "POST servers/7/actions/change_alias_ips":
		if body.Network != 815 {
			return "", errors.New("404")
		}
		key := "alias/" + strings.Split(c.words[0], "/")[5]
		wanted := ""
		if len(body.Aliases) > 0 {
			wanted = `"` + strings.Join(body.Aliases, `","`) + `"`
		}
		for other, held := range state {
			if other != key && held == wanted {
				return "", errTaken
			}
		}
		if state[key] = wanted; wanted == "" {
			delete(state, key)
		}
		return "{}", nil
	}
	return "", errors.New("404")
}

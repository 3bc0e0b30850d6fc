// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

var (
	spans  = regexp.MustCompile("`([^`]+)`")
	target = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
	word   = regexp.MustCompile(`^[a-z][a-z-]*$`)
	// A flag in the help of cobra, and whether it has a value.
	flagLine    = regexp.MustCompile(`(?m)^ +(?:-(\w), )?--([a-z][a-z0-9-]*)(?: (\S+))?  `)
	commandLine = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +\S`)
)

// elsewhere are flags of other programs that documents name on their own.
var elsewhere = map[string]bool{"can-ip-forward": true, "cluster-cidr": true, "disable": true, "ip-masq": true, "random-fully": true}

// knowledge is what documents may name.
type knowledge struct {
	targets  map[string]bool
	programs map[string]*command
}

// command is a program or a command of it.
type command struct {
	commands map[string]*command
	flags    map[string]bool // without dashes; true if it has a value
}

// called returns the words by which a program is called: kubectl finds kubectl-x as "kubectl x".
func called(program string) string {
	return strings.Replace(program, "kubectl-", "kubectl ", 1)
}

// targets returns the targets of a Makefile.
func targets(makefile string) map[string]bool {
	all := map[string]bool{}
	for _, match := range target.FindAllStringSubmatch(makefile, -1) {
		all[match[1]] = true
	}
	return all
}

// learn asks a program for its commands and flags.
func learn(program string, names ...string) (*command, error) {
	out, err := exec.Command(program, append(names, "--help")...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s %s --help: %w\n%s", program, strings.Join(names, " "), err, out)
	}
	c := parse(string(out))
	for name := range c.commands {
		if c.commands[name], err = learn(program, append(names[:len(names):len(names)], name)...); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// parse reads the help of a cobra command; the values of commands are nil.
func parse(help string) *command {
	c := &command{commands: map[string]*command{}, flags: map[string]bool{}}
	_, listed, _ := strings.Cut(help, "\nAvailable Commands:\n")
	listed, _, _ = strings.Cut(listed, "\n\n")
	for _, match := range commandLine.FindAllStringSubmatch(listed, -1) {
		c.commands[match[1]] = nil
	}
	_, flags, _ := strings.Cut(help, "Flags:\n")
	for _, match := range flagLine.FindAllStringSubmatch(flags, -1) {
		c.flags[match[2]] = match[3] != ""
		if match[1] != "" {
			c.flags[match[1]] = match[3] != ""
		}
	}
	return c
}

// check returns a fault for each command, flag and target in a document that does not exist.
func (k knowledge) check(path, text string) []string {
	var faults []string
	joined := ""
	for _, l := range lines(text) {
		var calls []string
		switch {
		case !l.code:
			for _, span := range spans.FindAllStringSubmatch(l.text, -1) {
				if strings.HasPrefix(span[1], "-") {
					if fault := k.flag(span[1]); fault != "" {
						faults = append(faults, fmt.Sprintf("%s:%d: %s", path, l.number, fault))
					}
				}
				calls = append(calls, split(span[1])...)
			}
		case l.language == "sh" || l.language == "console" || l.language == "":
			if begin, more := strings.CutSuffix(l.text, `\`); more {
				joined += begin
				continue
			}
			calls, joined = split(joined+l.text), ""
		}
		for _, call := range calls {
			if fault := k.call(call); fault != "" {
				faults = append(faults, fmt.Sprintf("%s:%d: `%s`: %s", path, l.number, call, fault))
			}
		}
	}
	return faults
}

var (
	prompt    = regexp.MustCompile(`^\s*[#$] `)
	comment   = regexp.MustCompile(`(^|\s)#\s.*`)
	separator = regexp.MustCompile(`[|;&(){}]+|\$\(`)
	assigns   = regexp.MustCompile(`^(?:[A-Z_]+=\S*|sudo|exec)\s+`)
)

// split returns the commands of a line of shell, without prompts, comments and assignments.
func split(text string) []string {
	text = prompt.ReplaceAllString(text, "")
	text = comment.ReplaceAllString(text, "")
	var calls []string
	for _, call := range separator.Split(text, -1) {
		call = strings.TrimSpace(call)
		for assigns.MatchString(call) {
			call = assigns.ReplaceAllString(call, "")
		}
		if call != "" {
			calls = append(calls, call)
		}
	}
	return calls
}

// flag returns what is wrong with a flag that stands alone, or "".
func (k knowledge) flag(text string) string {
	name, found := strings.CutPrefix(strings.Fields(text)[0], "--")
	name, _, _ = strings.Cut(name, "=")
	if !found || !word.MatchString(name) || elsewhere[name] {
		return ""
	}
	for _, program := range k.programs {
		if program.has(name) {
			return ""
		}
	}
	return fmt.Sprintf("`--%s`: no program of this project has this flag", name)
}

// has reports whether the command or one below it has the flag.
func (c *command) has(flag string) bool {
	if _, found := c.flags[flag]; found {
		return true
	}
	for _, below := range c.commands {
		if below.has(flag) {
			return true
		}
	}
	return false
}

// call returns what is wrong with a command, or "".
func (k knowledge) call(text string) string {
	if args, found := strings.CutPrefix(text, "make "); found {
		for name := range strings.FieldsSeq(args) {
			if word.MatchString(name) && !k.targets[name] {
				return fmt.Sprintf("the Makefile has no target %s", name)
			}
		}
		return ""
	}
	for name, program := range k.programs {
		if args, found := strings.CutPrefix(text, name+" "); found {
			return program.call(strings.Fields(args))
		}
	}
	return ""
}

// call returns what is wrong with the arguments of a command, or "".
func (c *command) call(args []string) string {
	value := false
	for i, arg := range args {
		name, isFlag := strings.CutPrefix(arg, "-")
		switch {
		case value:
			value = false
		case isFlag && name != "" && name != "-":
			name, _, given := strings.Cut(strings.TrimPrefix(name, "-"), "=")
			name = strings.TrimRight(name, "]…")
			takes, known := c.flags[name]
			if !known {
				return fmt.Sprintf("there is no flag %s", strings.TrimRight(arg, "]…"))
			}
			value = takes && !given
		case word.MatchString(arg) && len(c.commands) > 0:
			below, known := c.commands[arg]
			if !known {
				return fmt.Sprintf("there is no command %s", arg)
			}
			return below.call(args[i+1:])
		}
	}
	return ""
}

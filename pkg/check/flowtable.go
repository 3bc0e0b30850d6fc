// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

// Flowtable says whether established connections bypass the rules. why is the reason why they do not, or nil.
func Flowtable(why error) []Line {
	if why != nil {
		return []Line{{Level: OK, What: "flowtable", Text: "off: " + why.Error()}}
	}
	return ok("flowtable", "on: packets of established connections bypass the rules of this host, also those of other programs; "+
		"set flowtable: off if such a rule must see each packet")
}

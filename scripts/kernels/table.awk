# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Makes a table of the logs of kernels, which run.sh writes and names after the kernels. Each suite of the variable suites must have run
# to its end on each kernel without a failure, and passed a test; otherwise the exit status is 1.

function begin(name) {
	suite = name
	passed = failed = skipped = noted = count = 0
	split("", reasons)
	split("", times)
}

function note(reason) {
	if (!(reason in times)) reasons[++count] = reason
	times[reason]++
}

function end(    text, i) {
	if (skipped > noted) note((skipped - noted) " skipped without a reason")
	for (i = 1; i <= count; i++) text = text (i > 1 ? "; " : "") reasons[i] (times[reasons[i]] > 1 ? " (" times[reasons[i]] ")" : "")
	printf "| %s | %s | %d | %d | %d | %s |\n", kernel, suite, passed, failed, skipped, text
	if (failed || !passed) bad = 1
	ran[kernel, suite] = 1
	suite = ""
}

# finish adds the suites that did not come to their end.
function finish(    i, n, names) {
	if (kernel == "") return
	if (suite != "") {
		failed++
		note("did not end")
		end()
	}
	n = split(suites, names, " ")
	for (i = 1; i <= n; i++) if (!((kernel, names[i]) in ran)) {
		begin(names[i])
		failed = 1
		note("did not run")
		end()
	}
}

BEGIN {
	print "| kernel | suite | passed | failed | skipped | why |"
	print "| --- | --- | --- | --- | --- | --- |"
}
FNR == 1 {
	finish()
	kernel = FILENAME
	sub(/.*\//, "", kernel)
	sub(/\.log$/, "", kernel)
}
/^@flowtable / { tables = tables (tables == "" ? "" : ", ") kernel " " $2 }
/^@broken / { bad = 1 }
/^@suite / { begin($2) }
/^ *--- PASS: / { passed++ }
/^ *--- FAIL: / { failed++ }
/^ *--- SKIP: / { skipped++ }
/: SKIPPED: / {
	sub(/.*: SKIPPED: /, "")
	noted++
	note($0)
}
/^@end / {
	if ($3 != 0 && !failed) {
		failed++
		note("exit status " $3)
	}
	end()
}
END {
	finish()
	print "\nflowtables: " tables
	exit bad
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSummarize(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events []string
		failed bool
		want   string
	}{{
		name: "passes are counted, slow ones shown, their output is not",
		events: []string{
			`{"Action":"start","Package":"x/a"}`,
			`{"Action":"run","Package":"x/a","Test":"TestOne"}`,
			`{"Action":"output","Package":"x/a","Test":"TestOne","Output":"chatter\n"}`,
			`{"Action":"pass","Package":"x/a","Test":"TestOne","Elapsed":0.1}`,
			`{"Action":"pass","Package":"x/a","Test":"TestSlow/case","Elapsed":7}`,
			`{"Action":"pass","Package":"x/a","Test":"TestSlow","Elapsed":7}`,
			`{"Action":"output","Package":"x/a","Output":"PASS\n"}`,
			`{"Action":"output","Package":"x/a","Output":"ok  \tx/a\t7.1s\n"}`,
			`{"Action":"pass","Package":"x/a","Elapsed":7.1}`,
			`{"Action":"output","Package":"x/b","Output":"?   \tx/b\t[no test files]\n"}`,
			`{"Action":"skip","Package":"x/b"}`,
		},
		want: "    a.TestSlow passed in 7 s\nok  \tx/a\t7.1s\n3 passed, 0 failed, 0 skipped\n",
	}, {
		name: "a failure shows all that it printed, a skip its reason",
		events: []string{
			`{"Action":"output","Package":"x/a","Test":"TestBad","Output":"want 1\n"}`,
			`{"Action":"output","Package":"x/a","Test":"TestBad","Output":"--- FAIL: TestBad\n"}`,
			`{"Action":"fail","Package":"x/a","Test":"TestBad"}`,
			`{"Action":"output","Package":"x/a","Test":"TestNo","Output":"SKIPPED: needs root\n"}`,
			`{"Action":"skip","Package":"x/a","Test":"TestNo"}`,
			`{"Action":"output","Package":"x/a","Output":"FAIL\tx/a\t0.1s\n"}`,
			`{"Action":"fail","Package":"x/a"}`,
		},
		failed: true,
		want:   "want 1\n--- FAIL: TestBad\nSKIPPED: needs root\nFAIL\tx/a\t0.1s\n0 passed, 1 failed, 1 skipped\n",
	}, {
		name: "a package that does not build is a failure",
		events: []string{
			`{"ImportPath":"x/a","Action":"build-output","Output":"a.go:1: undefined: y\n"}`,
			`{"Action":"output","Package":"x/a","Output":"FAIL\tx/a [build failed]\n"}`,
			`{"Action":"fail","Package":"x/a","FailedBuild":"x/a"}`,
		},
		failed: true,
		want:   "a.go:1: undefined: y\nFAIL\tx/a [build failed]\n0 passed, 1 failed, 0 skipped\n",
	}, {
		name: "a crash shows the last words of the test that ran",
		events: []string{
			`{"Action":"run","Package":"x/a","Test":"TestCrash"}`,
			`{"Action":"output","Package":"x/a","Test":"TestCrash","Output":"panic: oh\n"}`,
			`{"Action":"output","Package":"x/a","Output":"FAIL\tx/a\t0.1s\n"}`,
			`{"Action":"fail","Package":"x/a"}`,
		},
		failed: true,
		want:   "FAIL\tx/a\t0.1s\npanic: oh\n0 passed, 1 failed, 0 skipped\n",
	}, {
		name:   "what is no event is passed on",
		events: []string{`go: downloading x`},
		want:   "go: downloading x\n0 passed, 0 failed, 0 skipped\n",
	}} {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			failed, err := summarize(strings.NewReader(strings.Join(tc.events, "\n")+"\n"), &out)
			if err != nil {
				t.Fatal(err)
			}
			if failed != tc.failed {
				t.Errorf("failed = %v, want %v", failed, tc.failed)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package delta_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/delta"
)

// item has a key, by which lists are sorted, and content.
type item struct {
	key     int
	content string
}

func byKey(a, b item) int { return cmp.Compare(a.key, b.key) }

var opts = gocmp.AllowUnexported(item{})

func TestApply(t *testing.T) {
	list := []item{{1, "a"}, {3, "a"}, {5, "a"}}
	for _, tc := range []struct {
		name           string
		list           []item
		removed, added []item
		want           []item
	}{
		{name: "nothing", list: list, want: list},
		{name: "to an empty list", added: []item{{2, "b"}, {1, "b"}}, want: []item{{1, "b"}, {2, "b"}}},
		{name: "all leave", list: list, removed: []item{{5, "a"}, {1, "a"}, {3, "a"}}},
		{name: "first, between and last enter", list: list, added: []item{{6, "b"}, {0, "b"}, {4, "b"}}, want: []item{{0, "b"}, {1, "a"}, {3, "a"}, {4, "b"}, {5, "a"}, {6, "b"}}},
		{name: "a replaced item", list: list, removed: []item{{3, "a"}}, added: []item{{3, "b"}}, want: []item{{1, "a"}, {3, "b"}, {5, "a"}}},
		{name: "a removed item that is not there", list: list, removed: []item{{2, "a"}, {9, "a"}}, want: list},
		{name: "removed from an empty list", removed: []item{{2, "a"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			change := delta.Change[item]{Removed: tc.removed, Added: tc.added}
			before := slices.Clone(tc.list)
			if diff := gocmp.Diff(tc.want, change.Apply(tc.list, byKey), opts); diff != "" {
				t.Error(diff)
			}
			if diff := gocmp.Diff(before, tc.list, opts); diff != "" {
				t.Errorf("the list itself changed: %s", diff)
			}
		})
	}
}

func TestApplyNothingReturnsTheList(t *testing.T) {
	list := []item{{1, "a"}}
	if got := new(delta.Change[item]).Apply(list, byKey); &got[0] != &list[0] {
		t.Error("the list was copied")
	}
}

func TestDiff(t *testing.T) {
	for _, tc := range []struct {
		before, now, removed, added string
	}{
		{"", "", "", ""},
		{"abc", "abc", "", ""},
		{"abc", "cab", "", ""},
		{"", "ab", "", "ab"},
		{"ab", "", "ab", ""},
		{"abcd", "abd", "c", ""},
		{"abd", "abcd", "", "c"},
		{"abc", "axc", "b", "x"},
		{"abcd", "dxba", "c", "x"},
		{"aab", "bac", "a", "c"},
		{"ab", "bba", "", "b"},
	} {
		t.Run(tc.before+" to "+tc.now, func(t *testing.T) {
			c := delta.Diff([]byte(tc.before), []byte(tc.now))
			if string(c.Removed) != tc.removed || string(c.Added) != tc.added {
				t.Errorf("removed %q, added %q; want %q and %q", c.Removed, c.Added, tc.removed, tc.added)
			}
			if c.Empty() != (tc.removed+tc.added == "") {
				t.Errorf("Empty is %t", c.Empty())
			}
		})
	}
}

// randomList returns a sorted list with few keys and contents, so that two of them have much in common.
func randomList(random *rand.Rand) []item {
	var list []item
	for key := range 12 {
		if random.IntN(3) > 0 {
			list = append(list, item{key, string(rune('a' + random.IntN(2)))})
		}
	}
	return list
}

// TestPairsOfLists compares random lists in all ways, and checks that each difference leads from one to the other.
func TestPairsOfLists(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 2000 {
		before, now := randomList(random), randomList(random)
		change := delta.Diff(before, now)
		if got := change.Apply(before, byKey); !slices.Equal(got, now) {
			t.Fatalf("pair %d: from %v by %v to %v, want %v", n, before, change, got, now)
		}
		var joined delta.Change[item]
		for was, is := range delta.Join(before, now, byKey) {
			switch {
			case was != nil && is != nil && *was == *is:
				continue
			case was != nil && is != nil && was.key != is.key, was == nil && is == nil:
				t.Fatalf("pair %d: joined %v and %v", n, was, is)
			}
			if was != nil {
				joined.Removed = append(joined.Removed, *was)
			}
			if is != nil {
				joined.Added = append(joined.Added, *is)
			}
		}
		if got := joined.Apply(before, byKey); !slices.Equal(got, now) {
			t.Fatalf("pair %d: from %v by joining to %v, want %v", n, before, got, now)
		}
	}
}

func TestJoinStops(t *testing.T) {
	n := 0
	for range delta.Join([]item{{1, "a"}, {2, "a"}}, nil, byKey) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d items, want 1", n)
	}
}

// pointers returns a pointer for each item. Some equal items are other pointers than the known ones.
func pointers(random *rand.Rand, list []item, known map[item]*item) []*item {
	var all []*item
	for _, i := range list {
		if known[i] == nil || random.IntN(4) == 0 {
			known[i] = &i
		}
		all = append(all, known[i])
	}
	return all
}

// TestDiffering compares the pairs with those of Join, and counts the comparisons: at most one for a pair, none for a shared item.
func TestDiffering(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for n := range 2000 {
		known := map[item]*item{}
		before, now := pointers(random, randomList(random), known), pointers(random, randomList(random), known)
		var want, got [][2]*item
		for was, is := range delta.Join(before, now, func(a, b *item) int { return byKey(*a, *b) }) {
			var pair [2]*item
			if was != nil {
				pair[0] = *was
			}
			if is != nil {
				pair[1] = *is
			}
			if pair[0] != pair[1] {
				want = append(want, pair)
			}
		}
		compared := 0
		for was, is := range delta.Differing(before, now, func(a, b *item) int {
			compared++
			return byKey(*a, *b)
		}) {
			got = append(got, [2]*item{was, is})
		}
		if !slices.Equal(got, want) || compared > len(got) {
			t.Fatalf("lists %d: %v by %d comparisons, want %v", n, got, compared, want)
		}
	}
}

func TestDifferingStops(t *testing.T) {
	n := 0
	for range delta.Differing([]*item{{1, "a"}, {2, "a"}}, nil, func(a, b *item) int { return byKey(*a, *b) }) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d items, want 1", n)
	}
}

// TestRuns compares the runs of random lists with what a search for each run finds.
func TestRuns(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	compare := func(a, b *item) int { return byKey(*a, *b) }
	equal := func(a, b *item) bool { return *a == *b }
	for pair := range 500 {
		t.Run(fmt.Sprint(pair), func(t *testing.T) {
			before, now := randomList(random), randomList(random)
			if random.IntN(8) == 0 {
				now = slices.Clone(before)
			}
			known := map[item]*item{}
			runs := delta.AppendRuns(nil, pointers(random, before, known), pointers(random, now, known), compare, equal)
			for start := range now {
				for end := start + 1; end <= len(now); end++ {
					part := now[start:end]
					want := slices.ContainsFunc(before, func(i item) bool {
						at := slices.Index(before, i)
						return len(before)-at >= len(part) && slices.Equal(before[at:at+len(part)], part)
					})
					if got := runs.Contain(start, len(part)); got != want {
						t.Errorf("%v to %v: Contain(%d, %d) is %t", before, now, start, len(part), got)
					}
				}
			}
			if got := runs.All(len(before), len(now)); got != slices.Equal(before, now) {
				t.Errorf("%v to %v: All is %t", before, now, got)
			}
			for _, r := range runs {
				if !slices.Equal(before[r.Before:r.Before+r.Len], now[r.Now:r.Now+r.Len]) {
					t.Errorf("%v to %v: %v is no run", before, now, r)
				}
			}
		})
	}
}

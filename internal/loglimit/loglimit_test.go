package loglimit_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/internal/loglimit"
)

func TestAKindHasOneLineInAnIntervalAndThatCountsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := loglimit.New(time.Minute)
		want := func(kind string, missed int, ok bool) {
			t.Helper()
			if m, o := l.Allow(kind); m != missed || o != ok {
				t.Errorf("a line of kind %q: %v, %d missed, want %v, %d", kind, o, m, ok, missed)
			}
		}
		want("a", 0, true)
		want("b", 0, true)
		for range 1000 {
			want("a", 0, false)
		}
		time.Sleep(time.Minute - 1) // virtual
		want("a", 0, false)
		time.Sleep(time.Nanosecond) // virtual
		want("a", 1001, true)
		want("a", 0, false)
		want("b", 0, true)
		time.Sleep(time.Hour) // virtual
		want("a", 1, true)
	})
}

func TestKindsBeyondNumberAreOne(t *testing.T) {
	l := loglimit.New(time.Minute)
	lines := 0
	for i := range 100_000 {
		if _, ok := l.Allow(fmt.Sprint(i)); ok {
			lines++
		}
	}
	if lines > 300 {
		t.Errorf("%d lines of as many kinds", lines)
	}
}

func TestKindsOfEarlierIntervalsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := loglimit.New(time.Minute)
		for i := range 1000 {
			if _, ok := l.Allow(fmt.Sprint(i)); !ok && i < 256 {
				t.Errorf("no line of kind %d", i)
			}
			time.Sleep(time.Second / 5) // virtual: 300 in an interval
		}
		time.Sleep(time.Minute)
		for i := range 256 {
			if _, ok := l.Allow(fmt.Sprint("new ", i)); !ok {
				t.Errorf("no line of kind %d, though the earlier ones are over", i)
			}
		}
	})
}

func TestLinesMayComeFromEverywhereAtOnce(t *testing.T) {
	l := loglimit.New(time.Hour)
	var lines atomic.Int32
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for range 100 {
				if _, ok := l.Allow("kind"); ok {
					lines.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if n := lines.Load(); n != 1 {
		t.Errorf("%d lines, want one", n)
	}
}

func TestTextFromElsewhereStaysOnItsLineAndIsCut(t *testing.T) {
	const most = 11 // in the middle of an ä
	for text, want := range map[string]string{
		"":                        "",
		"n1#ab":                   "n1#ab",
		`a "name"`:                `a "name"`,
		"a\nERROR forged":         `a\nERROR for...`,
		"\x1b[31m":                `\x1b[31m`,
		strings.Repeat("ä", 1000): "äääää...",
		"\xff\xff":                `\xff\xff`,
	} {
		if got := loglimit.Plain(text, most); got != want {
			t.Errorf("%.20q: %s, want %s", text, got, want)
		}
	}
}

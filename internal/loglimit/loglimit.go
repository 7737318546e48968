// Package loglimit keeps log lines few that come again and again: each kind of them has
// one line in an interval, which tells how many were left out before it ([Limiter]), and
// what goes on being wrong is told when that changes ([Trouble]).
//
// Nothing here has a goroutine. The one mutex of a Limiter is held for a look into a map,
// and its methods may be called from any goroutine. All of it is tested in virtual time.
package loglimit

import (
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// A Limiter decides which lines are written.
type Limiter struct {
	every time.Duration

	mu    sync.Mutex
	kinds map[string]*state // guarded by mu
}

type state struct {
	last   time.Time // when the last line was written
	missed int       // lines since then that were not
}

// maxKinds bounds the memory of a Limiter whose kinds are not its user's own words.
const maxKinds = 256

// New returns a Limiter that lets one line of a kind through in each interval.
func New(every time.Duration) *Limiter {
	return &Limiter{every: every, kinds: make(map[string]*state)}
}

// Allow reports whether a line of a kind may be written now. missed is how many of
// the kind were left out since the last one that was.
//
// A kind is what the line is about, in the words of the program: never text from
// elsewhere, or each line is of a kind of its own. Beyond 256 kinds in an interval the
// others are one.
func (l *Limiter) Allow(kind string) (missed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	over := func(_ string, s *state) bool { return now.Sub(s.last) >= l.every }
	if l.kinds[kind] == nil && len(l.kinds) >= maxKinds {
		maps.DeleteFunc(l.kinds, over)
		if len(l.kinds) >= maxKinds {
			kind = ""
		}
	}
	s := l.kinds[kind]
	switch {
	case s == nil:
		s = new(state)
		l.kinds[kind] = s
	case !over(kind, s):
		s.missed++
		return 0, false
	}
	missed, *s = s.missed, state{last: now}
	return missed, true
}

// Plain returns text from elsewhere as it can be given to a logger: cut to some bytes,
// with what is not printable as Go writes it in a string, so that it stays on its line.
func Plain(text string, most int) string {
	end := ""
	if len(text) > most {
		for most > 0 && !utf8.RuneStart(text[most]) {
			most--
		}
		text, end = text[:most], "..."
	}
	unfit := func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }
	if strings.ContainsFunc(text, unfit) {
		text = strconv.Quote(text)
		text = text[1 : len(text)-1]
	}
	return text + end
}

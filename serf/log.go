package serf

import (
	"io"
	"log"
	"maps"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// logPatience is how long Close waits for the last lines to be logged.
const logPatience = time.Second

// newLog is where serf and memberlist log, by their own interface: to l. What they warn
// of every second is logged once in a minute, unless l tells all.
func newLog(l hclog.Logger) *log.Logger {
	l = l.Named("serf")
	out := l.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true})
	if !l.IsDebug() {
		out = &rare{out: out, last: map[string]time.Time{}}
	}
	return log.New(out, "", 0)
}

// rare passes each kind of warning or error on once in a minute, and everything else. It
// is written to line by line, by one goroutine at a time, as a log.Logger does.
type rare struct {
	out  io.Writer
	last map[string]time.Time // by kind, of the last minute
}

// varying is what differs between lines of one kind: ports that the system gave, sizes.
var varying = regexp.MustCompile(`\d{4,}`)

func (r *rare) Write(line []byte) (int, error) {
	kind := varying.ReplaceAllString(string(line), "")
	if strings.HasPrefix(kind, "[WARN]") || strings.HasPrefix(kind, "[ERR") {
		maps.DeleteFunc(r.last, func(_ string, at time.Time) bool { return time.Since(at) >= time.Minute })
		if _, met := r.last[kind]; met {
			return len(line), nil
		}
		r.last[kind] = time.Now()
	}
	return r.out.Write(line)
}

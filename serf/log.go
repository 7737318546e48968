package serf

import (
	"io"
	"log"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kvraft/kvraft/internal/loglimit"
)

// logPatience is how long Close waits for the last lines to be logged.
const logPatience = time.Second

// newLog is where serf and memberlist log, by their own interface: to l. What they warn
// of every second is logged once in a minute, unless l tells all.
func newLog(l hclog.Logger) *log.Logger {
	l = l.Named("serf")
	out := l.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true})
	if !l.IsDebug() {
		out = rare{out, loglimit.New(time.Minute)}
	}
	return log.New(out, "", 0)
}

// rare passes each kind of warning or error on once in a minute, and everything else. It
// is written to line by line, as a log.Logger does.
type rare struct {
	out   io.Writer
	lines *loglimit.Limiter
}

// varying is what differs between lines of one kind: ports that the system gave, sizes.
var varying = regexp.MustCompile(`\d{4,}`)

func (r rare) Write(line []byte) (int, error) {
	kind := varying.ReplaceAllString(string(line), "")
	if strings.HasPrefix(kind, "[WARN]") || strings.HasPrefix(kind, "[ERR") {
		if _, ok := r.lines.Allow(kind); !ok {
			return len(line), nil
		}
	}
	return r.out.Write(line)
}

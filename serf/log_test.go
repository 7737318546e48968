package serf

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestEachKindOfWarningIsLoggedOnceInAMinute(t *testing.T) {
	lines := []string{
		"[WARN] memberlist: a:7946 is not there",
		"[WARN] memberlist: b:7946 is not there",
		"[ERR] memberlist: from 127.0.0.1:40000: gibberish",
		"[ERR] memberlist: from 127.0.0.1:40001: gibberish",
		"[INFO] serf: again",
		"[INFO] serf: again",
	}
	logged := func(level hclog.Level, pause time.Duration) (n int) {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			l := newLog(hclog.New(&hclog.LoggerOptions{Output: &out, Level: level}))
			for range 2 {
				for _, line := range lines {
					l.Print(line)
				}
				time.Sleep(pause)
			}
			n = bytes.Count(out.Bytes(), []byte("\n"))
		})
		return n
	}
	if n := logged(hclog.Info, 59*time.Second); n != 3+4 {
		t.Errorf("%d lines in a minute", n)
	}
	if n := logged(hclog.Info, time.Minute); n != 2*(3+2) {
		t.Errorf("%d lines in two minutes", n)
	}
	if n := logged(hclog.Debug, time.Second); n != 2*len(lines) {
		t.Errorf("%d lines of a log that has everything", n)
	}
}

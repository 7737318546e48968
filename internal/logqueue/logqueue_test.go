package logqueue

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// pipe is what a logger writes to. Nobody reads it while it is full.
type pipe struct {
	mu      sync.Mutex
	text    bytes.Buffer  // guarded by mu
	full    chan struct{} // closed when it is read again; nil: it has room
	reached chan struct{} // closed by the first Write
	once    sync.Once
}

func fullPipe() *pipe {
	return &pipe{full: make(chan struct{}), reached: make(chan struct{})}
}

func (p *pipe) Write(b []byte) (int, error) {
	p.once.Do(func() {
		if p.reached != nil {
			close(p.reached)
		}
	})
	if p.full != nil {
		<-p.full
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *pipe) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Split(strings.TrimSuffix(p.text.String(), "\n"), "\n")
}

func (p *pipe) logger(level hclog.Level) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: p, Level: level, DisableTime: true, IndependentLevels: true})
}

func wantLines(t *testing.T, p *pipe, want ...string) {
	t.Helper()
	if got := p.lines(); !slices.Equal(got, want) {
		t.Errorf("logged\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLinesComeOutAsTheSinkWritesThem(t *testing.T) {
	var direct, queued pipe
	sink := queued.logger(hclog.Trace)
	q := New(sink)
	for _, l := range []hclog.Logger{direct.logger(hclog.Trace), q.Logger()} {
		l.Trace("a", "n", 1)
		l.Debug("b", "d", 3*time.Second, "b", true)
		l.Named("raft").With("peer", "n2").Info("c", "names", []string{"x", "y z"}, "empty", "")
		l.ResetNamed("other").Named("part").Warn("d", "at", hclog.Fmt("%d of %d", 1, 3), "x", hclog.Hex(255), "q", hclog.Quote("a b"))
		l.Error("e", "error", errors.New("it is\nbroken"), "nil", nil, "odd")
		l.Log(hclog.Warn, "f", "f", 0.5)
		l.StandardLogger(&hclog.StandardLoggerOptions{InferLevels: true}).Print("[WARN] g: h")
		fmt.Fprintln(l.StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Error}), "i")
	}
	if !q.Close(time.Minute) {
		t.Error("the queue did not end")
	}
	if len(direct.lines()) < 8 {
		t.Fatal(direct.lines())
	}
	wantLines(t, &queued, direct.lines()...)
}

func TestLevelsAndNamesAreThoseOfTheSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pipe
		sink := p.logger(hclog.Info)
		q := New(sink)
		l := q.Logger().Named("net").With("a", 1)
		if l.Name() != "net" || len(l.ImpliedArgs()) != 2 || l.IsDebug() || l.IsTrace() || !l.IsInfo() || !l.IsWarn() || !l.IsError() {
			t.Errorf("%q, %v, %v", l.Name(), l.ImpliedArgs(), l.GetLevel())
		}
		l.Debug("one")
		l.Log(hclog.Debug, "one")
		l.SetLevel(hclog.Debug)
		l.Debug("two")
		l.Log(hclog.Debug, "two more")
		synctest.Wait() // the sink looks at its level again when it writes
		l.SetLevel(hclog.Error)
		l.Info("three")
		l.Warn("three")
		if l.GetLevel() != hclog.Error || sink.GetLevel() != hclog.Info {
			t.Errorf("levels %v and %v", l.GetLevel(), sink.GetLevel())
		}
		l.SetLevel(hclog.Debug)
		q.Close(time.Minute)
		wantLines(t, &p, "[DEBUG] net: two: a=1", "[DEBUG] net: two more: a=1")
	})
}

func TestASinkThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fullPipe()
		q := New(p.logger(hclog.Info))
		l := q.Logger()
		l.Info("first")
		<-p.reached
		for i := range 3 * maxLines {
			l.Info("line", "i", i)
		}
		time.Sleep(2 * time.Second)
		close(p.full)
		synctest.Wait()
		l.Info("again")
		q.Close(time.Minute)
		got := p.lines()
		if len(got) != maxLines+3 || got[0] != "[INFO]  first" || got[1] != "[INFO]  line: i=0 logged_after=2s" {
			t.Fatalf("%d lines: %.200q", len(got), got)
		}
		if want := []string{fmt.Sprintf("[WARN]  log lines were dropped: they came faster than they could be written: lines=%d", 2*maxLines), "[INFO]  again"}; !slices.Equal(got[maxLines+1:], want) {
			t.Errorf("%q, want %q", got[maxLines+1:], want)
		}
	})
}

func TestLongLinesAreBoundedByTheirBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fullPipe()
		q := New(p.logger(hclog.Info))
		l := q.Logger()
		l.Info("first")
		<-p.reached
		long := strings.Repeat("x", maxBytes/4)
		for range 100 {
			l.Info("line", "error", errors.New(long))
			_, _ = fmt.Fprintln(l.StandardWriter(&hclog.StandardLoggerOptions{}), long)
		}
		l.Info(strings.Repeat("y", maxBytes+1))
		close(p.full)
		q.Close(time.Minute)
		if got := p.lines(); len(got) > 6 || !strings.Contains(got[len(got)-1], "dropped") {
			t.Errorf("%d lines", len(got))
		}
	})
}

func TestALineThatIsLargerThanTheQueueIsLoggedAlone(t *testing.T) {
	var p pipe
	q := New(p.logger(hclog.Info))
	q.Logger().Info(strings.Repeat("y", maxBytes+1))
	q.Close(time.Minute)
	if got := p.lines(); len(got) != 1 || len(got[0]) < maxBytes {
		t.Errorf("%d lines", len(got))
	}
}

// With -race.
func TestArgumentsMayChangeOnceTheyAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fullPipe()
		q := New(p.logger(hclog.Info))
		l := q.Logger()
		l.Info("first")
		<-p.reached
		names, text, m := []string{"a"}, []byte("b"), map[string]int{"c": 1}
		err := &changing{"d"}
		var none *changing
		l.With("w", m).Info("line", "names", names, "text", hclog.Fmt("%s", text), "map", m, "error", err, "none", none)
		fmt.Fprintf(l.StandardWriter(&hclog.StandardLoggerOptions{}), "%s", text)
		names[0], text[0], m["c"], err.text = "z", 'z', 26, "z"
		close(p.full)
		q.Close(time.Minute)
		wantLines(t, p, "[INFO]  first", `[INFO]  line: w=map[c:1] names=["a"] text=b map=map[c:1] error=d none=<nil>`, "[INFO]  b")
	})
}

type changing struct{ text string }

func (c *changing) Error() string { return c.text }

func TestCloseDoesNotWaitForEverAndNothingIsLoggedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fullPipe()
		q := New(p.logger(hclog.Info))
		l := q.Logger()
		l.Info("first")
		l.Info("second")
		<-p.reached
		began := time.Now()
		if q.Close(time.Second) || time.Since(began) != time.Second {
			t.Errorf("it took %v", time.Since(began))
		}
		l.Info("third")
		close(p.full)
		<-q.done // the goroutine ends with the call in which it was
		wantLines(t, p, "[INFO]  first")
	})
}

func TestCloseWaitsForWhatIsQueued(t *testing.T) {
	var p pipe
	q := New(p.logger(hclog.Info))
	for i := range 1000 {
		q.Logger().Info("line", "i", i)
	}
	if !q.Close(time.Minute) || len(p.lines()) != 1000 {
		t.Errorf("%d lines", len(p.lines()))
	}
}

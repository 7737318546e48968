package loglimit_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/loglimit"
)

func TestTroubleIsToldWhenItChangesAndAWarningWhenItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		trouble := loglimit.Trouble{Log: hclog.New(&hclog.LoggerOptions{Output: &out, DisableTime: true})}
		want := func(what error, line string) {
			t.Helper()
			out.Reset()
			trouble.About("waiting", what)
			if out.String() != line {
				t.Errorf("%v: logged %q, want %q", what, out.String(), line)
			}
		}
		a, b := errors.New("a"), errors.New("b")
		want(nil, "")
		want(a, "[INFO]  waiting: reason=a\n")
		time.Sleep(time.Second) // virtual
		want(a, "")
		want(b, "") // too soon
		time.Sleep(5 * time.Second)
		want(b, "[INFO]  waiting: reason=b\n")
		time.Sleep(4 * time.Second)
		want(b, "[WARN]  waiting: reason=b\n")
		time.Sleep(time.Hour)
		want(b, "")
		want(nil, "")
		want(b, "[INFO]  waiting: reason=b\n")
		want(nil, "")
		refused := fmt.Errorf("%w: c", errs.Refused)
		want(refused, "[WARN]  waiting: reason=\"kvraft: refused: c\"\n")
		time.Sleep(time.Hour)
		want(refused, "")
	})
}

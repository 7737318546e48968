package limits

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kvraft/kvraft/internal/batch"
	"github.com/kvraft/kvraft/internal/command"
	"github.com/kvraft/kvraft/internal/errs"
)

func TestAWriteWithinItsLimitsIsTaken(t *testing.T) {
	l := Limits{KeyBytes: 4, ValueBytes: 8, BatchBytes: 20}
	set := func(key, value int) command.Op {
		return command.Op{Kind: command.Set, Key: strings.Repeat("k", key), Value: make([]byte, value)}
	}
	del := func(key string) command.Op { return command.Op{Kind: command.Delete, Key: key} }
	check := func(key string) command.Op { return command.Op{Kind: command.Check, Key: key} }
	for name, c := range map[string]struct {
		ops  []command.Op
		want error
	}{
		"the longest pair":           {[]command.Op{set(4, 8)}, nil},
		"an empty value":             {[]command.Op{set(1, 0)}, nil},
		"the largest batch":          {[]command.Op{set(4, 8), set(4, 4)}, nil},
		"no operation":               {nil, errs.Invalid},
		"an empty key":               {[]command.Op{set(1, 1), set(0, 0)}, errs.Invalid},
		"an empty key to delete":     {[]command.Op{del("")}, nil},
		"an empty key to check":      {[]command.Op{check("")}, nil},
		"a key too long":             {[]command.Op{set(5, 0)}, errs.TooLarge},
		"a key too long, to delete":  {[]command.Op{del("kkkkk")}, nil},
		"a key too long, to check":   {[]command.Op{check("kkkkk")}, nil},
		"a value too long":           {[]command.Op{set(1, 9)}, errs.TooLarge},
		"a batch too large":          {[]command.Op{set(4, 8), set(4, 5)}, errs.TooLarge},
		"a batch too large of keys":  {slices.Repeat([]command.Op{del("kkkk")}, 6), errs.TooLarge},
		"a batch too large, by one":  {append(slices.Repeat([]command.Op{del("kkkk")}, 5), del("k")), errs.TooLarge},
		"a batch that is just right": {slices.Repeat([]command.Op{del("kkkk")}, 5), nil},
	} {
		if err := l.Check(c.ops); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestTheLargestGroupOfAFollowerIsWithinTheLeadersLimit(t *testing.T) {
	l := Limits{KeyBytes: 1 << 10, ValueBytes: 1 << 20, BatchBytes: 8 << 20}
	var ops []command.Op
	for range MaxOps {
		ops = append(ops, command.Op{Kind: command.Check, Key: strings.Repeat("k", l.BatchBytes/MaxOps), Version: 1<<64 - 1})
	}
	largest := command.Request{Origin: command.Caller, Born: 1<<64 - 1, Ops: ops}
	if err := l.Check(ops); err != nil {
		t.Fatal(err)
	}
	if size := batch.GroupBytes + command.Size(largest) + 16; size > l.GroupBytes() {
		t.Errorf("it has up to %d bytes, the limit is %d", size, l.GroupBytes())
	}
}

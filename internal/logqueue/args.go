package logqueue

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
)

// settled returns the arguments of a line as they are now: they are written later, when
// their owner may have changed them. What can change is turned into text, as the sink
// would. size is about that of the text.
func settled(args []any) (out []any, size int) {
	out = make([]any, len(args), len(args)+2)
	for i, arg := range args {
		out[i] = settle(arg)
		size += len(fmt.Sprint(out[i]))
	}
	return out, size
}

func settle(arg any) any {
	switch a := arg.(type) {
	case nil, bool, string,
		int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64,
		time.Duration, time.Time,
		hclog.Hex, hclog.Octal, hclog.Binary, hclog.Quote, hclog.CapturedStacktrace:
		return arg
	case hclog.Format:
		if format, ok := a[0].(string); ok {
			return fmt.Sprintf(format, a[1:]...)
		}
	case []string:
		return slices.Clone(a)
	case error:
		return errors.New(fmt.Sprint(a)) // unlike a.Error it survives a nil pointer
	}
	return fmt.Sprint(arg)
}

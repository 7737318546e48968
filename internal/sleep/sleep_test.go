package sleep

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if !For(ctx, 2*time.Second) || time.Since(began) != 2*time.Second {
			t.Errorf("waited for %v, want 2s", time.Since(began))
		}
		if For(ctx, 2*time.Second) || time.Since(began) != 3*time.Second {
			t.Errorf("waited until %v, want 3s and false", time.Since(began))
		}
	})
}

func TestABackoffDoublesUpToItsMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{Next: time.Second, Most: 5 * time.Second}
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			began := time.Now()
			if !b.Wait(t.Context()) || time.Since(began) != want*time.Second {
				t.Errorf("waited for %v, want %d s", time.Since(began), want)
			}
		}
	})
}

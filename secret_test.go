package kvraft_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

const oldSecret, newSecret = "0123456789abcdef", "fedcba9876543210"

func TestAClusterWithASecretFailsOverAndFormsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3, kvraft.WithSecret(oldSecret))
		for range 3 {
			leader := c.WaitLeader()
			mustSet(t, c.Store((leader+1)%3), "key", strings.Repeat("v", 100<<10))
			c.WaitConverged()
			c.Crash(leader)
			began := time.Now()
			mustSet(t, c.Store((leader+1)%3), "key", "value")
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("another wrote after %v", took)
			}
			c.Restart(leader)
			c.WaitReady(leader)
		}
		for i := range 3 {
			if p := c.Store(i).Status().Protection; p != kvraft.SecretShared {
				t.Errorf("n%d says that its protection is %q", i+1, p)
			}
		}
	})
}

// rolling restarts the nodes one after the other with other options, while those that run
// are written to and read from, and fails the test if one call does.
func rolling(t *testing.T, c *kvrafttest.Cluster, rounds ...[]kvraft.Option) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	inUse, made := make([]chan struct{}, c.Len()), make([]int, c.Len()) // a mutex would hold up virtual time
	for i := range inUse {
		inUse[i] = make(chan struct{}, 1)
	}
	call := func(i int) {
		inUse[i] <- struct{}{}
		defer func() { <-inUse[i] }()
		key, value := fmt.Sprint("key-", i, "-", made[i]%10), fmt.Sprint(made[i])
		if _, err := c.Store(i).Set(t.Context(), key, []byte(value)); err != nil {
			t.Errorf("set on n%d: %v", i+1, err)
		}
		if entry, err := c.Store(i).Get(t.Context(), key); err != nil || string(entry.Value) != value {
			t.Errorf("get on n%d: %q, %v, want %s", i+1, entry.Value, err, value)
		}
		made[i]++
	}
	for i := range c.Len() {
		calls.Go(func() {
			for ctx.Err() == nil {
				call(i)
				time.Sleep(time.Millisecond)
			}
		})
	}
	for _, opts := range rounds {
		for i := range c.Len() {
			inUse[i] <- struct{}{}
			c.Stop(i)
			c.SetOptions(i, opts...)
			c.Restart(i)
			c.WaitReady(i)
			<-inUse[i]
			time.Sleep(100 * time.Millisecond)
		}
	}
	cancel()
	calls.Wait()
	for i, n := range made {
		if n < 100 {
			t.Errorf("n%d had %d calls: the test shows nothing", i+1, n)
		}
	}
}

func TestASecretIsChangedOnARunningCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kvrafttest.New(t, 3)
		rolling(t, c,
			[]kvraft.Option{kvraft.WithSecret(oldSecret), kvraft.WithPlainPeers()},
			[]kvraft.Option{kvraft.WithSecret(oldSecret)},
			[]kvraft.Option{kvraft.WithSecret(oldSecret, newSecret)},
			[]kvraft.Option{kvraft.WithSecret(newSecret, oldSecret)},
			[]kvraft.Option{kvraft.WithSecret(newSecret)},
		)
	})
}

// A node that does not have the secret is told so, as is who looks at a member's log.
func TestANodeWithoutTheSecretIsNotAdmitted(t *testing.T) {
	for _, c := range []struct {
		opts               []kvraft.Option
		joiner, memberLogs string
	}{
		{nil, "this node is protected, and the dialer is not", "this node is protected, and the dialer is not"},
		{[]kvraft.Option{kvraft.WithSecret(newSecret)}, "the other side has another secret", "the other side does not accept what this node proves"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log lockedBuffer
			cluster := kvrafttest.New(t, 1, kvraft.WithSecret(oldSecret), kvraft.WithLogger(hclog.New(&hclog.LoggerOptions{Output: &log})))
			network := cluster.Network()
			store, err := kvraft.Open("", append([]kvraft.Option{
				kvraft.WithInMemory(), kvraft.WithID("stranger"), kvraft.WithAddr("stranger:7000"), kvraft.WithNetwork(network.Host("stranger")),
				kvraft.WithJoin(cluster.Host(0) + ":7000"),
			}, c.opts...)...)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			eventually(t, "the joiner's reason", func() bool { return strings.Contains(store.Status().Reason, c.joiner) })
			eventually(t, "a line of the member's", func() bool { return strings.Contains(log.String(), c.memberLogs) })
			if nodes := cluster.Store(0).Status().Nodes; len(nodes) != 1 {
				t.Errorf("the members are %v", nodes)
			}
			for _, secret := range []string{oldSecret, newSecret} {
				if strings.Contains(log.String(), secret) {
					t.Error("a secret is in the log")
				}
			}
		})
	}
}

func TestASecretThatIsTooShortIsRefused(t *testing.T) {
	for _, opts := range [][]kvraft.Option{
		{kvraft.WithSecret("")}, {kvraft.WithSecret("fifteen bytes..")}, {kvraft.WithSecret(newSecret, "")}, {kvraft.WithPlainPeers()},
	} {
		store, err := kvraft.Open("", append(opts, kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))...)
		if !errors.Is(err, kvraft.ErrInvalid) || !strings.Contains(err.Error(), "WithSecret") {
			t.Errorf("got %v", err)
		}
		if err == nil {
			_ = store.Close()
		}
	}
}

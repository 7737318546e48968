package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// scale is how much of a test to run: a tenth with -short or under the race
// detector, and any multiple in KVRAFT_SCALE. More than one is that many rounds.
func scale(t *testing.T) (rounds int, share float64) {
	t.Helper()
	factor := 1.0
	if testing.Short() || raced {
		factor = 0.1
	}
	if text := os.Getenv("KVRAFT_SCALE"); text != "" {
		var err error
		if factor, err = strconv.ParseFloat(text, 64); err != nil {
			t.Fatalf("KVRAFT_SCALE: %v", err)
		}
	}
	rounds = max(1, int(math.Ceil(factor)))
	return rounds, factor / float64(rounds)
}

// Clients of every node read, write and delete a few keys while nodes are killed,
// paused and stopped. What the clients saw must be linearizable, and at the end all
// replicas must be equal.
func TestHistoriesAreLinearizableWhileProcessesDieAndPause(t *testing.T) {
	rounds, share := scale(t)
	nodes := startNodes(t, 3)
	for round := range rounds {
		history := kvrafttest.NewHistory()
		keys := make([]string, clientCount)
		for i := range keys {
			keys[i] = fmt.Sprintf("%d/%d", round, i)
		}
		o := &ordeal{t: t, nodes: nodes, kills: 12, pauses: 4, blackouts: 2, stops: 2}
		o.asleep = func(paused *node) (awake func()) { return readAhead(t, history, paused, keys) }
		o.run(share, func(ctx context.Context, n *node, number, turn int) error {
			// Three clients have the same keys, one on each node.
			return call(ctx, history, n, keys[number%4+4*rand.IntN(3)], fmt.Sprintf("%d-%d", number, turn))
		})
		history.Check(t, 2*time.Minute)
		waitSameState(t, nodes)
		t.Logf("round %d: %v; %d calls with an effect to judge", round, o, history.Len())
		if t.Failed() {
			return
		}
	}
}

// call makes one call of any kind.
func call(ctx context.Context, history *kvrafttest.History, n *node, key, value string) (err error) {
	r := remote{addr: n.haddr}
	switch rand.IntN(8) {
	case 0, 1, 2:
		_, err = history.Get(ctx, r, key)
	case 3, 4:
		_, err = history.Set(ctx, r, key, value)
	case 5, 6:
		var entry kvraft.Entry
		if entry, err = history.Get(ctx, r, key); err == nil || errors.Is(err, kvraft.ErrNotFound) {
			_, err = history.SetIf(ctx, r.ifVersion(entry.Version), key, value, entry.Version)
		}
	case 7:
		_, err = history.Delete(ctx, r, key)
	}
	return err
}

// readAhead sends reads to a paused node, so that they are what it first sees when
// it wakes: before it hears, or notices by its clock, that it leads no more. awake
// waits for the answers.
func readAhead(t *testing.T, history *kvrafttest.History, paused *node, keys []string) (awake func()) {
	t.Helper()
	const each = 4
	var sent atomic.Int64
	var reading sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { sent.Add(1) },
	})
	for range each {
		for _, key := range keys {
			reading.Go(func() {
				if _, err := history.Get(traced, remote{addr: paused.haddr}, key); err != nil && !foreseen(err) {
					t.Error(err)
				}
			})
		}
	}
	eventually(t, "the reads to be sent", func() string {
		if n := sent.Load(); n < int64(each*len(keys)) {
			return fmt.Sprint(n, " are")
		}
		return ""
	})
	return func() {
		reading.Wait()
		cancel()
	}
}

// Clients of every node increment a counter by compare-and-set. A write that is
// lost, or takes effect though its client was told otherwise, shows in the sum, and
// before that in the client's own part of it.
func TestACounterEndsAsItsClientsWereToldWhileProcessesDieAndPause(t *testing.T) {
	rounds, share := scale(t)
	nodes := startNodes(t, 3)
	for round := range rounds {
		c := &counter{key: fmt.Sprint("counter-", round)}
		o := &ordeal{t: t, nodes: nodes, kills: 6, pauses: 1, blackouts: 1, stops: 1}
		o.run(share, func(ctx context.Context, n *node, number, _ int) error {
			return c.increment(ctx, remote{addr: n.haddr}, number)
		})
		waitSameState(t, nodes)
		least, most := c.bounds()
		for _, n := range nodes {
			parts, _, err := c.read(t.Context(), remote{addr: n.haddr})
			if sum := sum(parts); err != nil || sum < least || sum > most {
				t.Errorf("on %s the counter is %d, %v, want %d to %d", n.id, sum, err, least, most)
			}
		}
		t.Logf("round %d: %v; the counter is at %d to %d", round, o, least, most)
		if t.Failed() {
			return
		}
	}
}

// counter is the sum of what each client has added.
type counter struct {
	key  string
	told [clientCount]told // each used by that client alone
}

// told is what a client knows of its own increments: how many took effect, and
// whether, as long as the counter stays at version, one more still may.
type told struct {
	done    int64
	open    bool
	version uint64
}

func (c *counter) read(ctx context.Context, r remote) (parts [clientCount]int64, version uint64, err error) {
	entry, err := r.Get(ctx, c.key)
	if errors.Is(err, kvraft.ErrNotFound) {
		return parts, 0, nil
	}
	if err != nil {
		return parts, 0, err
	}
	return parts, entry.Version, json.Unmarshal(entry.Value, &parts)
}

func (c *counter) increment(ctx context.Context, r remote, number int) error {
	parts, version, err := c.read(ctx, r)
	if err != nil {
		return err
	}
	mine := &c.told[number]
	if mine.open && parts[number] == mine.done+1 {
		mine.done, mine.open = mine.done+1, false
	}
	if parts[number] != mine.done {
		return fmt.Errorf("version %d of the counter has %d increments of a client that was told of %d (%+v)", version, parts[number], mine.done, *mine)
	}
	mine.open = mine.open && version == mine.version
	parts[number]++
	value, err := json.Marshal(parts)
	if err != nil {
		return err
	}
	_, err = r.ifVersion(version).Set(ctx, c.key, value, kvraft.IfVersion(version))
	switch {
	case err == nil:
		*mine = told{done: parts[number]}
	case errors.Is(err, kvraft.ErrUnknown):
		mine.open, mine.version = true, version
	}
	return err
}

// bounds are what the counter can be, once the clients have stopped.
func (c *counter) bounds() (least, most int64) {
	for _, t := range c.told {
		least += t.done
		most += t.done
		if t.open {
			most++
		}
	}
	return least, most
}

func sum(parts [clientCount]int64) (total int64) {
	for _, n := range parts {
		total += n
	}
	return total
}

// clientCount is how many clients there are on all nodes together.
const clientCount = 12

// ordeal is a time of faults under load.
type ordeal struct {
	t     *testing.T
	nodes []*node

	kills, pauses, blackouts, stops int // how often each fault strikes

	asleep func(paused *node) (awake func()) // called before a paused leader goes on, and awake after; nil: nothing

	calls, refused, unknown atomic.Int64 // of the clients: all, those not applied, those that may be
}

func (o *ordeal) String() string {
	return fmt.Sprintf("%d kills, %d pauses of the leader, %d blackouts, %d stops; %d calls, of which %d were not served and %d are unknown",
		o.kills, o.pauses, o.blackouts, o.stops, o.calls.Load(), o.refused.Load(), o.unknown.Load())
}

// run has clients on every node while a share of the faults strikes, and returns
// when all nodes are well again and the clients have stopped.
func (o *ordeal) run(share float64, turn func(ctx context.Context, n *node, number, turn int) error) {
	o.t.Helper()
	for _, count := range []*int{&o.kills, &o.pauses, &o.blackouts, &o.stops} {
		*count = max(1, int(math.Round(share*float64(*count))))
	}
	ctx, cancel := context.WithCancel(o.t.Context()) // cuts calls off, when the test fails
	stop := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for number := range clientCount {
		running.Go(func() {
			for n := 0; o.takeTurn(stop); n++ {
				o.count(ctx, func(ctx context.Context) error { return turn(ctx, o.nodes[number%len(o.nodes)], number, n) })
			}
		})
	}
	o.strike()
	waitReady(o.t, o.nodes...)
	o.goOn(100)
	close(stop)
	running.Wait()
}

// takeTurn paces a client. It returns false when the client is to stop.
func (o *ordeal) takeTurn(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	case <-time.After(rand.N(20 * time.Millisecond)):
		return !o.t.Failed()
	}
}

func (o *ordeal) count(ctx context.Context, call func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, limit) // a node gives up before
	defer cancel()
	err := call(ctx)
	switch {
	case errors.Is(err, kvraft.ErrUnknown):
		o.unknown.Add(1)
	case errors.Is(err, kvraft.ErrNoLeader):
		o.refused.Add(1)
	case err != nil && !foreseen(err) && ctx.Err() == nil:
		o.t.Error(err)
	}
	o.calls.Add(1)
}

// goOn waits until the clients have had some more calls served.
func (o *ordeal) goOn(calls int64) {
	o.t.Helper()
	served := func() int64 { return o.calls.Load() - o.refused.Load() - o.unknown.Load() }
	want := served() + calls
	eventually(o.t, "the clients to be served", func() string {
		if n := served(); n < want && !o.t.Failed() {
			return fmt.Sprintf("%d calls to go", want-n)
		}
		return ""
	})
}

// strike has all the faults strike in a random order.
func (o *ordeal) strike() {
	o.t.Helper()
	var faults []func()
	for _, kind := range []struct {
		times int
		fault func()
	}{{o.kills, o.kill}, {o.pauses, o.pause}, {o.blackouts, o.blackout}, {o.stops, o.stop}} {
		for range kind.times {
			faults = append(faults, kind.fault)
		}
	}
	rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, fault := range faults {
		o.goOn(rand.Int64N(800))
		if o.t.Failed() {
			o.t.FailNow()
		}
		fault()
	}
}

// victim is any node, and often the leader, as there is most to lose. It may have
// started a moment ago.
func (o *ordeal) victim() *node {
	o.t.Helper()
	if rand.IntN(2) == 0 {
		return findLeader(o.t, o.nodes)
	}
	return o.nodes[rand.IntN(len(o.nodes))]
}

func (o *ordeal) kill() {
	o.t.Helper()
	n := o.victim()
	n.signal(syscall.SIGKILL)
	<-n.exited
	if rand.IntN(2) == 0 {
		waitReady(o.t, without(n, o.nodes)...)
		o.goOn(rand.Int64N(400)) // which takes another leader, if it was that
	}
	n.start(o.t)
}

func (o *ordeal) blackout() {
	o.t.Helper()
	for _, n := range o.nodes {
		n.signal(syscall.SIGKILL)
	}
	for _, n := range o.nodes {
		<-n.exited
		n.start(o.t)
	}
}

func (o *ordeal) stop() {
	o.t.Helper()
	waitReady(o.t, o.nodes...)
	n := o.victim()
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		o.t.Errorf("%s ended with %d after SIGTERM", n.id, code)
	}
	n.start(o.t)
}

// pause stops the leader until another one has taken over and served clients.
func (o *ordeal) pause() {
	o.t.Helper()
	waitReady(o.t, o.nodes...)
	leader := findLeader(o.t, o.nodes)
	leader.suspend()
	enough := time.After(3*time.Second + rand.N(2*time.Second))
	findLeader(o.t, without(leader, o.nodes))
	<-enough
	o.goOn(200)
	awake := func() {}
	if o.asleep != nil {
		awake = o.asleep(leader)
	}
	leader.resume()
	awake()
}

func without(n *node, nodes []*node) []*node {
	return slices.DeleteFunc(slices.Clone(nodes), func(m *node) bool { return m == n })
}

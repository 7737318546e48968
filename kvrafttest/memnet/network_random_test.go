package memnet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

// The mesh writes over every edge while cuts come and go; each stream must carry exactly what was written.
func TestWhatArrivesIsAlwaysAPrefixOfWhatWasSent(t *testing.T) {
	const seeds = 30
	for seed := range uint64(seeds) {
		bubble(t, func(t *testing.T, n *memnet.Network) {
			hosts := []string{"a", "b", "c", "d"}
			var streams sync.WaitGroup
			for i, from := range hosts {
				for j, to := range hosts {
					near, far := connect(t, n, from, fmt.Sprintf("%s:%d", to, i+1))
					random := rand.New(rand.NewPCG(seed, uint64(10*i+j)))
					streams.Go(func() { sendPattern(near, random) })
					streams.Go(func() { receivePattern(t, far, seed) })
				}
			}
			random := rand.New(rand.NewPCG(seed, 100))
			for range 200 {
				disturb(n, hosts, random)
				time.Sleep(rand.N(20 * time.Millisecond))
			}
			n.Heal()
			streams.Wait()
		})
	}
}

func disturb(n *memnet.Network, hosts []string, random *rand.Rand) {
	pick := func() string { return hosts[random.IntN(len(hosts))] }
	switch random.IntN(40) {
	default:
		n.Block(pick(), pick())
	case 10, 11, 12, 13, 14, 15, 16, 17, 18, 19:
		n.Unblock(pick(), pick())
	case 20, 21, 22, 23, 24:
		n.Partition([]string{pick(), pick()}, []string{pick(), pick()})
	case 25:
		n.Isolate(pick())
	case 26, 27, 28, 29:
		n.Heal()
	case 30, 31, 32, 33, 34, 35, 36, 37:
		n.SetDelay(pick(), pick(), time.Duration(random.IntN(int(5*time.Millisecond))))
	case 38:
		n.Sever(pick(), pick())
	case 39:
		n.Reset(pick())
	}
}

// sendPattern writes and then closes, or stops at a reset.
func sendPattern(c net.Conn, random *rand.Rand) {
	defer c.Close()
	for sent := 0; sent < 1<<20; {
		n, err := c.Write(pattern(sent, 1+random.IntN(1<<random.IntN(18))))
		sent += n
		if err != nil {
			return
		}
		time.Sleep(time.Duration(random.IntN(int(10 * time.Millisecond))))
	}
}

func receivePattern(t *testing.T, c net.Conn, seed uint64) {
	defer c.Close()
	b := make([]byte, 10_000)
	for got := 0; ; {
		n, err := c.Read(b)
		if !bytes.Equal(b[:n], pattern(got, n)) {
			t.Errorf("seed %d, %s → %s: other bytes at %d", seed, c.RemoteAddr(), c.LocalAddr(), got)
		}
		got += n
		switch {
		case err == io.EOF && got < 1<<20:
			t.Errorf("seed %d, %s → %s: the end at %d", seed, c.RemoteAddr(), c.LocalAddr(), got)
			return
		case err == io.EOF || errors.Is(err, syscall.ECONNRESET):
			return
		case err != nil:
			t.Errorf("seed %d: %v", seed, err)
			return
		}
	}
}

// FuzzArrivals runs a script of writes, cuts, delays and pauses on one stream and compares, after every step, what a reader
// got with a model of the edge: bytes arrive in order, when they are due and the edge is open. A step is a letter and a byte.
func FuzzArrivals(f *testing.F) {
	f.Add([]byte("w\x01p\x05w\x02b.p\x09w\x03u.w\x04d\x40w\x01d\x00w\x01p\x20b.h.p\x02"))
	f.Add([]byte("d\xffw\x10d\x01w\x10h.p\x02c.p\x04"))
	f.Add([]byte("w\x01b.c.p\x10u.p\x01"))
	f.Add([]byte("w\x01c.p\x02b.p\x10"))
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(1, seed))
		var script []byte
		for range random.IntN(60) {
			script = append(script, "wwwwppppppbbuuddh"[random.IntN(17)], byte(random.IntN(1+random.IntN(256))))
		}
		f.Add(append(script, "c.p\x02b.p\x20u.p\x03h.p\x06"...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		bubble(t, func(t *testing.T, n *memnet.Network) {
			s := startStream(t, n)
			defer s.stop()
			for i := 0; i+1 < len(script); i += 2 {
				s.step(script[i], int(script[i+1]))
				synctest.Wait()
				s.arrive()
				if got := s.got(); got != s.want {
					t.Fatalf("script %q, step %d: %+v arrived, want %+v", script, i, got, s.want)
				}
			}
		})
	})
}

// scripted is a stream from a to b with a model of it.
type scripted struct {
	t         *testing.T
	network   *memnet.Network
	near, far net.Conn

	delay  time.Duration
	cut    bool
	closed bool
	flying []flight
	want   arrivals

	reader sync.WaitGroup
	mu     sync.Mutex // guards read
	read   arrivals
}

// flight is a write on its way; without bytes it is the end.
type flight struct {
	bytes int
	due   time.Time
}

type arrivals struct {
	bytes int
	end   bool
}

func startStream(t *testing.T, n *memnet.Network) *scripted {
	near, far := pair(t, n, "a", "b")
	s := &scripted{t: t, network: n, near: near, far: far, delay: latency}
	s.reader.Go(s.receive)
	return s
}

func (s *scripted) receive() {
	b := make([]byte, 50)
	for {
		n, err := s.far.Read(b)
		s.mu.Lock()
		s.read.bytes += n
		s.read.end = err == io.EOF
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *scripted) got() arrivals {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

func (s *scripted) stop() {
	s.far.Close()
	s.reader.Wait()
}

func (s *scripted) step(letter byte, argument int) {
	switch letter {
	case 'w':
		s.write(100 * argument)
	case 'p':
		time.Sleep(time.Duration(argument) * 100 * time.Microsecond)
	case 'b':
		s.network.Block("a", "b")
		s.cut = true
	case 'u':
		s.network.Unblock("a", "b")
		s.cut = false
	case 'd':
		s.delay = time.Duration(argument) * 50 * time.Microsecond
		s.network.SetDelay("a", "b", s.delay)
	case 'h':
		s.network.Heal()
		s.heal()
	case 'c':
		if !s.closed {
			s.closed = true
			s.send(0, time.Now())
			equal(s.t, s.near.Close(), nil)
		}
	}
}

// write writes what the window has room for.
func (s *scripted) write(bytes int) {
	if s.closed {
		return
	}
	now := time.Now()
	s.near.SetWriteDeadline(now.Add(time.Nanosecond))
	n, err := s.near.Write(make([]byte, bytes))
	if err != nil {
		timesOut(s.t, err)
		equal(s.t, s.inFlight()+n, window)
	}
	if n > 0 {
		s.send(n, now)
	}
}

func (s *scripted) inFlight() int {
	bytes := 0
	for _, f := range s.flying {
		bytes += f.bytes
	}
	return bytes
}

func (s *scripted) send(bytes int, now time.Time) {
	due := now.Add(s.delay)
	if k := len(s.flying); k > 0 && s.flying[k-1].due.After(due) {
		due = s.flying[k-1].due
	}
	s.flying = append(s.flying, flight{bytes, due})
}

func (s *scripted) heal() {
	s.delay, s.cut = latency, false
	latest := time.Now().Add(latency)
	for i, f := range s.flying {
		if f.due.After(latest) {
			s.flying[i].due = latest
		}
	}
}

// arrive moves what has arrived by now to want.
func (s *scripted) arrive() {
	for len(s.flying) > 0 && !s.cut && !time.Now().Before(s.flying[0].due) {
		s.want.bytes += s.flying[0].bytes
		s.want.end = s.flying[0].bytes == 0
		s.flying = s.flying[1:]
	}
}

// pattern returns the n bytes at an offset of an endless stream whose period no buffer size divides.
func pattern(offset, n int) []byte {
	period := make([]byte, 251)
	for i := range period {
		period[i] = byte(i)
	}
	return bytes.Repeat(period, n/len(period)+2)[offset%len(period):][:n]
}

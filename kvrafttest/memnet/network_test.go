package memnet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft/kvrafttest/memnet"
)

func Example_network() {
	network := memnet.New()
	listener, err := network.Host("n2").Listen("n2:7000")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer listener.Close()
	sender, err := network.Host("n1").Dial(context.Background(), "n2:7000")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sender.Close()
	receiver, err := listener.Accept()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer receiver.Close()

	network.Block("n1", "n2")
	fmt.Fprint(sender, "sent during the cut")

	message := make([]byte, 100)
	receiver.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err = receiver.Read(message)
	fmt.Println("cut:", errors.Is(err, os.ErrDeadlineExceeded))

	network.Heal()
	receiver.SetReadDeadline(time.Time{})
	n, err := receiver.Read(message)
	fmt.Println("healed:", string(message[:n]), err)

	network.Reset("n1")
	_, err = receiver.Read(message)
	fmt.Println("dead:", errors.Is(err, syscall.ECONNRESET))
	// Output:
	// cut: true
	// healed: sent during the cut <nil>
	// dead: true
}

// Dialing.

func TestDialingTakesOneRoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		l := listen(t, n, "b:1")
		n.SetDelay("a", "b", 30*time.Millisecond)
		took := elapsed(func() { dial(t, n, "a", "b:1") })
		equal(t, took, 30*time.Millisecond+latency)
		_, err := l.Accept()
		equal(t, err, nil)
	})
}

func TestDialingAHostWhereNobodyListensIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		n.Host("b")
		l := listen(t, n, "c:1")
		l.Close()
		for _, addr := range []string{"nobody:1", "b:1", "c:1", "c:2"} {
			_, err := n.Host("a").Dial(context.Background(), addr)
			is(t, err, syscall.ECONNREFUSED)
			var op *net.OpError
			equal(t, errors.As(err, &op) && op.Op == "dial", true)
		}
	})
}

func TestADialAcrossACutHangsUntilTheContextEnds(t *testing.T) {
	for _, cut := range []func(*memnet.Network){
		func(n *memnet.Network) { n.Block("a", "b") },
		func(n *memnet.Network) { n.Block("b", "a") },
		func(n *memnet.Network) { n.Isolate("a") },
		func(n *memnet.Network) { n.Isolate("b") },
		func(n *memnet.Network) { n.Partition([]string{"a"}) },
	} {
		bubble(t, func(t *testing.T, n *memnet.Network) {
			listen(t, n, "b:1")
			cut(n)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			took := elapsed(func() {
				_, err := n.Host("a").Dial(ctx, "b:1")
				is(t, err, context.DeadlineExceeded)
				var timeout net.Error
				equal(t, errors.As(err, &timeout) && timeout.Timeout(), true)
			})
			equal(t, took, time.Hour)
		})
	}
}

func TestADialThatHangsConnectsOneRoundTripAfterTheCutIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		listen(t, n, "b:1")
		n.Block("b", "a")
		time.AfterFunc(time.Minute, n.Heal)
		took := elapsed(func() { dial(t, n, "a", "b:1") })
		equal(t, took, time.Minute+2*latency)
	})
}

func TestACutDuringADialHoldsItUp(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		listen(t, n, "b:1")
		time.AfterFunc(latency, func() { n.Block("a", "b") })
		time.AfterFunc(time.Minute, func() { n.Unblock("a", "b") })
		took := elapsed(func() { dial(t, n, "a", "b:1") })
		equal(t, took, time.Minute+2*latency)
	})
}

func TestADialWithACancelledContextFailsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		listen(t, n, "b:1")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := n.Host("a").Dial(ctx, "b:1")
		is(t, err, context.Canceled)
	})
}

func TestABadAddressIsAnError(t *testing.T) {
	n := memnet.New()
	for _, addr := range []string{"", "a", "a:", "a:x", "a:-1", "a:65536", "a:1:2"} {
		if _, err := n.Host("a").Listen(addr); err == nil {
			t.Errorf("Listen(%q) succeeded", addr)
		}
		if _, err := n.Host("a").Dial(t.Context(), addr); err == nil {
			t.Errorf("Dial(%q) succeeded", addr)
		}
	}
}

// Listening.

func TestAListenerHasTheAddressOfItsHostAlone(t *testing.T) {
	n := memnet.New()
	l := listen(t, n, "a:7000")
	equal(t, l.Addr().String(), "a:7000")
	_, err := n.Host("a").Listen("a:7000")
	is(t, err, syscall.EADDRINUSE)
	_, err = n.Host("a").Listen("b:7000")
	is(t, err, syscall.EADDRNOTAVAIL)
	listen(t, n, "b:7000")

	l.Close()
	l, err = n.Host("a").Listen(":7000")
	equal(t, err, nil)
	equal(t, l.Addr().String(), "a:7000")
}

func TestPortZeroPicksAFreePortUntilThereIsNone(t *testing.T) {
	n := memnet.New()
	listen(t, n, "a:49153")
	seen := map[string]bool{"a:49153": true}
	for range 65535 - 49152 {
		l := listen(t, n, "a:0")
		if seen[l.Addr().String()] {
			t.Fatalf("%s was picked twice", l.Addr())
		}
		seen[l.Addr().String()] = true
	}
	_, err := n.Host("a").Listen("a:0")
	is(t, err, syscall.EADDRNOTAVAIL)
}

func TestClosingAListenerWakesAcceptAndResetsWhatNobodyAccepted(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		l := listen(t, n, "b:1")
		accepted, near := make(chan error), dial(t, n, "a", "b:1")
		far, err := l.Accept()
		equal(t, err, nil)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		synctest.Wait()
		l.Close()
		is(t, <-accepted, net.ErrClosed)
		_, err = l.Accept()
		is(t, err, net.ErrClosed)

		send(t, far, "hello")
		receive(t, near, "hello") // what was accepted stays
		l = listen(t, n, "b:1")
		waiting := dial(t, n, "a", "b:1")
		l.Close()
		fails(t, waiting, syscall.ECONNRESET)
	})
}

func TestClosingAListenerTwiceLeavesItsSuccessorAlone(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		l := listen(t, n, "b:1")
		equal(t, l.Close(), nil)
		listen(t, n, "b:1")
		equal(t, l.Close(), nil)
		dial(t, n, "a", "b:1")
	})
}

func TestAListenerWithAFullBacklogRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		l := listen(t, n, "b:1")
		for range 1024 {
			dial(t, n, "a", "b:1")
		}
		_, err := n.Host("a").Dial(t.Context(), "b:1")
		is(t, err, syscall.ECONNREFUSED)
		_, err = l.Accept()
		equal(t, err, nil)
		dial(t, n, "a", "b:1")
	})
}

func TestBothEndsNameTheSameAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		equal(t, near.RemoteAddr().String(), "b:1")
		equal(t, far.LocalAddr().String(), "b:1")
		equal(t, near.LocalAddr(), far.RemoteAddr())
		host, _, err := net.SplitHostPort(near.LocalAddr().String())
		equal(t, err, nil)
		equal(t, host, "a")
	})
}

// Cuts.

func TestACutStallsOneDirectionAndHealDeliversInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "on its way, ")
		n.Block("a", "b")
		send(t, near, "written during the cut")
		send(t, far, "the other way")
		receive(t, near, "the other way")
		far.SetReadDeadline(time.Now().Add(time.Hour))
		timesOut(t, read(far))
		far.SetReadDeadline(time.Time{})

		time.AfterFunc(time.Second, n.Heal)
		took := elapsed(func() { receive(t, far, "on its way, written during the cut") })
		equal(t, took, time.Second)
		send(t, near, "!")
		receive(t, far, "!")
	})
}

func TestWhatArrivedBeforeACutCanBeReadDuringIt(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "arrived")
		near.Close()
		time.Sleep(latency)
		n.Block("a", "b")
		receiveAll(t, far, "arrived")
	})
}

func TestACloseStallsOnACutEdge(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		n.Block("a", "b")
		near.Close()
		send(t, far, "b does not know")
		far.SetReadDeadline(time.Now().Add(time.Hour))
		timesOut(t, read(far))

		far.SetDeadline(time.Now().Add(time.Hour))
		count, err := far.Write(make([]byte, 2*window)) // nobody reads: the window fills
		equal(t, count, window-len("b does not know"))
		timesOut(t, err)

		far.SetDeadline(time.Time{})
		n.Unblock("a", "b")
		receiveAll(t, far, "")
	})
}

func TestACutBetweenAWriteAndItsArrivalHoldsAReaderThatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		time.AfterFunc(1*time.Second, func() { send(t, near, "x") })
		time.AfterFunc(time.Second+latency/2, func() { n.Isolate("b") })
		time.AfterFunc(time.Minute, n.Heal)
		equal(t, elapsed(func() { receive(t, far, "x") }), time.Minute)
	})
}

func TestALargePacketThatIsLostStallsItsConnectionOneWay(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		n.DropLarge("a", "b", 10)
		send(t, near, "0123456789")
		receive(t, far, "0123456789")
		send(t, near, "arrived")
		time.Sleep(latency)
		send(t, near, "0123456789a")
		send(t, near, "b")
		receive(t, far, "arrived")
		far.SetReadDeadline(time.Now().Add(time.Hour))
		timesOut(t, read(far))
		far.SetReadDeadline(time.Time{})

		send(t, far, "the other way, however large")
		receive(t, near, "the other way, however large")
		another, there := connect(t, n, "a", "b:2")
		send(t, another, "small")
		receive(t, there, "small")

		time.AfterFunc(time.Second, n.Heal)
		equal(t, elapsed(func() { receive(t, far, "0123456789ab") }), time.Second)
		send(t, near, "large once more")
		receive(t, far, "large once more")
	})
}

func TestAPartitionSeparatesGroupsAndBridgesBelongToSeveral(t *testing.T) {
	groups := func(g ...[]string) [][]string { return g }
	for _, test := range []struct {
		name      string
		partition [][]string
		open      []string // of the pairs ab ac ad bc bd cd
	}{
		{"two groups", groups([]string{"a", "b"}, []string{"c", "d"}), []string{"ab", "cd"}},
		{"the unnamed form a group", groups([]string{"a"}), []string{"bc", "bd", "cd"}},
		{"the unnamed form one group beside several", groups([]string{"a"}, []string{"b"}), []string{"cd"}},
		{"a bridge", groups([]string{"a", "b"}, []string{"b", "c", "d"}), []string{"ab", "bc", "bd", "cd"}},
		{"no groups", nil, []string{"ab", "ac", "ad", "bc", "bd", "cd"}},
		{"an empty group", groups(nil), []string{"ab", "ac", "ad", "bc", "bd", "cd"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *memnet.Network) {
				n.Partition([]string{"a"}, []string{"b"}, []string{"c"}, []string{"d"}) // is replaced
				n.Partition(test.partition...)
				var open []string
				for _, p := range []string{"ab", "ac", "ad", "bc", "bd", "cd"} {
					there, back := reaches(t, n, p[:1], p[1:]), reaches(t, n, p[1:], p[:1])
					equal(t, there, back)
					if there {
						open = append(open, p)
					}
				}
				equal(t, fmt.Sprint(open), fmt.Sprint(test.open))
			})
		})
	}
}

func TestCutsLieOverEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		n.Isolate("a")
		n.Block("a", "b")
		n.Partition([]string{"a"})
		equal(t, reaches(t, n, "a", "a"), true)
		n.Unblock("a", "b")
		equal(t, reaches(t, n, "a", "b"), false)
		n.Partition()
		equal(t, reaches(t, n, "a", "b"), false)
		n.Heal()
		equal(t, reaches(t, n, "a", "b"), true)
		n.Block("b", "a")
		n.Partition()
		equal(t, reaches(t, n, "a", "b"), false)
		n.Unblock("b", "a")
		equal(t, reaches(t, n, "a", "b"), true)
	})
}

func TestThePartitionIsTheNetworksOwnCopy(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		group := []string{"a", "b"}
		n.Partition(group)
		group[1] = "c"
		equal(t, reaches(t, n, "a", "b"), true)
		equal(t, reaches(t, n, "a", "c"), false)
	})
}

// Resets.

func TestResetFailsTheProcessAtOnceAndItsPeersOneLatencyLater(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "last words")
		n.Reset("a")
		equal(t, elapsed(func() { fails(t, near, syscall.ECONNRESET) }), 0)
		equal(t, elapsed(func() { receive(t, far, "last words") }), latency)
		fails(t, far, syscall.ECONNRESET)
		near.Close()
		fails(t, near, net.ErrClosed)
	})
}

func TestResetWakesWhatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		_, full := pair(t, n, "a", "b")
		l := listen(t, n, "a:1")
		n.Isolate("c")
		failed := make(chan error, 5)
		go func() { failed <- read(near) }()
		go func() { failed <- read(far) }()
		go func() {
			_, err := full.Write(make([]byte, 2*window))
			failed <- err
		}()
		go func() {
			_, err := l.Accept()
			failed <- err
		}()
		go func() {
			_, err := n.Host("a").Dial(context.Background(), "c:1")
			failed <- err
		}()
		time.Sleep(time.Second)
		equal(t, len(failed), 0)
		n.Reset("a")
		time.Sleep(latency)
		synctest.Wait()
		equal(t, len(failed), 5)
		for range 5 {
			err := <-failed
			equal(t, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed), true)
		}
	})
}

func TestADeadHostIsRefusedUntilItsSuccessorListens(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		dead := n.Host("b")
		listen(t, n, "b:1")
		n.Reset("nobody")
		n.Reset("b")
		_, err := n.Host("a").Dial(context.Background(), "b:1")
		is(t, err, syscall.ECONNREFUSED)
		listen(t, n, "a:1")
		_, err = dead.Dial(context.Background(), "a:1")
		is(t, err, net.ErrClosed)
		_, err = dead.Listen("b:1")
		is(t, err, net.ErrClosed)

		listen(t, n, "b:1")
		dial(t, n, "a", "b:1")
	})
}

func TestADialThatIsAnsweredAsItsHostDiesLeavesNoConnection(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		listen(t, n, "b:1")
		for range 200 { // which of the two comes first is open
			dead := n.Host("a")
			time.AfterFunc(2*latency, func() { n.Reset("a") })
			c, err := dead.Dial(context.Background(), "b:1")
			synctest.Wait()
			if err != nil {
				is(t, err, net.ErrClosed)
				continue
			}
			c.SetReadDeadline(time.Now().Add(time.Second))
			fails(t, c, syscall.ECONNRESET)
		}
	})
}

func TestAHostThatDiedBehindACutLooksSilentUntilItHeals(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		n.Isolate("a")
		send(t, near, "stalled")
		n.Reset("a")
		far.SetReadDeadline(time.Now().Add(time.Hour))
		timesOut(t, read(far))
		far.SetReadDeadline(time.Time{})
		send(t, far, "b does not know")

		n.Heal()
		receive(t, far, "stalled")
		fails(t, far, syscall.ECONNRESET)
	})
}

func TestSeverResetsBothEndsAndNewConnectionsArePossible(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		other, otherFar := pair(t, n, "c", "d")
		send(t, near, "before")
		n.Sever("b", "a")
		send(t, near, "lost")
		receive(t, far, "before")
		fails(t, near, syscall.ECONNRESET)
		fails(t, far, syscall.ECONNRESET)

		send(t, other, "untouched")
		receive(t, otherFar, "untouched")
		near, far = pair(t, n, "a", "b")
		send(t, near, "anew")
		receive(t, far, "anew")
	})
}

func TestOnASeveredConnectionEachEndLearnsOverItsOwnEdge(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		n.Block("a", "b")
		n.Sever("a", "b")
		fails(t, near, syscall.ECONNRESET)
		far.SetReadDeadline(time.Now().Add(time.Hour))
		timesOut(t, read(far))
		far.SetReadDeadline(time.Time{})
		n.Heal()
		fails(t, far, syscall.ECONNRESET)
	})
}

// Helpers.

func bubble(t *testing.T, f func(*testing.T, *memnet.Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, memnet.New()) })
}

func listen(t testing.TB, n *memnet.Network, addr string) net.Listener {
	t.Helper()
	host, _, err := net.SplitHostPort(addr)
	equal(t, err, nil)
	l, err := n.Host(host).Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(t testing.TB, n *memnet.Network, from, addr string) net.Conn {
	t.Helper()
	c, err := n.Host(from).Dial(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pair connects two hosts over port 1.
func pair(t testing.TB, n *memnet.Network, from, to string) (near, far net.Conn) {
	t.Helper()
	return connect(t, n, from, to+":1")
}

func connect(t testing.TB, n *memnet.Network, from, addr string) (near, far net.Conn) {
	t.Helper()
	l := listen(t, n, addr)
	defer l.Close()
	near = dial(t, n, from, addr)
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// reaches says whether a dial gets through.
func reaches(t *testing.T, n *memnet.Network, from, to string) bool {
	t.Helper()
	l := listen(t, n, to+":9")
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := n.Host(from).Dial(ctx, to+":9")
	if err != nil {
		is(t, err, context.DeadlineExceeded)
		return false
	}
	c.Close()
	return true
}

func TestConnectionsThatGoDarkLoseEverythingInSilence(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		send(t, near, "arrived ")
		time.Sleep(latency)
		send(t, near, "on its way")
		n.GoDark("b", "a")
		receive(t, far, "arrived ")
		send(t, near, "lost")
		near.Close()
		n.Heal()
		n.Sever("a", "b")
		n.Reset("a")
		far.SetReadDeadline(time.Now().Add(time.Hour))
		timesOut(t, read(far))
		send(t, far, "into the dark")

		near, far = pair(t, n, "a", "c")
		n.GoDark("a", "b")
		send(t, near, "others go on")
		receive(t, far, "others go on")
		near, far = pair(t, n, "a", "b")
		send(t, near, "new ones work")
		receive(t, far, "new ones work")
	})
}

func TestAWriteIntoTheDarkWaitsWhenTheWindowIsFull(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, _ := pair(t, n, "a", "b")
		n.GoDark("a", "b")
		near.SetWriteDeadline(time.Now().Add(time.Minute))
		count, err := near.Write(make([]byte, 2*window))
		equal(t, count, window)
		timesOut(t, err)
	})
}

func TestAPausedHostAnswersNothingAndItsSystemGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, n *memnet.Network) {
		near, far := pair(t, n, "a", "b")
		closed, left := pair(t, n, "b", "c")
		l := listen(t, n, "b:2")
		send(t, far, "written before")
		n.Pause("b")
		receive(t, near, "written before")
		equal(t, elapsed(func() { send(t, near, "sent meanwhile") }), 0)
		fresh := dial(t, n, "a", "b:2")
		send(t, fresh, "and accepted later")
		closed.Close()
		left.SetReadDeadline(time.Now().Add(time.Second))
		timesOut(t, read(left))
		left.SetReadDeadline(time.Time{})

		far.SetDeadline(time.Now().Add(time.Minute))
		time.AfterFunc(time.Hour, func() { n.Resume("b") })
		equal(t, elapsed(func() { timesOut(t, read(far)) }), time.Hour)
		far.SetDeadline(time.Time{})
		receive(t, far, "sent meanwhile")
		accepted, err := l.Accept()
		equal(t, err, nil)
		receive(t, accepted, "and accepted later")
		receiveAll(t, left, "")

		n.Pause("b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = n.Host("b").Dial(ctx, "a:1")
		is(t, err, context.DeadlineExceeded)
		n.Reset("b")
		is(t, read(accepted), syscall.ECONNRESET)
	})
}

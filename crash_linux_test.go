package kvraft_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/kvraft/kvraft"
)

// Processes are killed at a system call, and file systems lose what was not synced, in
// the middle of writes, snapshots, compaction and closing. Whatever was acknowledged
// must be there when the nodes start again, on the directories as they were left.

const (
	crashWriters = 4
	crashSlots   = 16  // keys of each writer
	crashWrites  = 100 // of each writer, and then the stores are closed
	crashDir     = "KVRAFT_CRASH_DIR"
	crashAddrs   = "KVRAFT_CRASH_ADDRS"
)

// crashOp is write n of a writer: most set a key, some delete it.
func crashOp(writer, n int) (key, value string) {
	key = fmt.Sprintf("%d/%d", writer, n%crashSlots)
	if n%7 == 3 {
		return key, ""
	}
	return key, fmt.Sprintf("%d %s", n, strings.Repeat("x", n*37%2000))
}

// crashNumber is which write of its writer a value is of; 0: there is none.
func crashNumber(t *testing.T, value string) int {
	if value == "" {
		return 0
	}
	number, _, _ := strings.Cut(value, " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("a value that nobody wrote: %.20q", value)
	}
	return n
}

// openForCrash opens a node for each address, with snapshots all the time.
func openForCrash(t *testing.T, dir string, addrs []string) (stores []*kvraft.Store) {
	t.Helper()
	for i, addr := range addrs {
		options := []kvraft.Option{
			kvraft.WithID(fmt.Sprint("n", i)), kvraft.WithAddr(addr), kvraft.WithBootstrapExpect(len(addrs)),
			kvraft.WithSnapshots(kvraft.Snapshots{EveryBytes: 32 << 10, TrailingBytes: 16 << 10}),
			kvraft.WithSegmentSize(64 << 10), // they are made, taken again and removed all the time
			kvraft.WithTiming(kvraft.Timing{Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, Lease: 150 * time.Millisecond}),
		}
		if len(addrs) > 1 {
			options = append(options, kvraft.WithJoin(addrs...))
		}
		store, err := kvraft.Open(filepath.Join(dir, fmt.Sprint("n", i)), options...)
		if err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
		stores = append(stores, store)
	}
	return stores
}

// TestCrashingStore is the process that the others start and end: it prints what was
// acknowledged.
func TestCrashingStore(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("it is a process of the tests of crashes")
	}
	stores := openForCrash(t, dir, strings.Fields(os.Getenv(crashAddrs)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var writers sync.WaitGroup
	for w := range crashWriters {
		writers.Go(func() {
			store := stores[w%len(stores)]
			first := 1
			for slot := range crashSlots {
				entry, err := store.Get(ctx, fmt.Sprintf("%d/%d", w, slot))
				if err != nil && !errors.Is(err, kvraft.ErrNotFound) {
					return // crashed
				}
				first = max(first, crashNumber(t, string(entry.Value))+2) // a delete may have come after
			}
			fmt.Println("first", w, first)
			for n := first; n < first+crashWrites; n++ {
				key, value := crashOp(w, n)
				write := func() (uint64, error) { return store.Set(ctx, key, []byte(value)) }
				if value == "" {
					write = func() (uint64, error) { return store.Delete(ctx, key) }
				}
				version, err := write()
				if err != nil {
					return // crashed
				}
				fmt.Println("ack", w, n, version)
			}
		})
	}
	writers.Wait()
	for _, store := range stores {
		store.Close() // however it ends: the power may be off
	}
}

// crashes is a cluster that is ended again and again, and what it has acknowledged.
type crashes struct {
	dir      string
	addrs    []string
	values   map[string]string // as they were when the nodes were last up
	last     [crashWriters]int // the last acknowledged write of each writer; the next may have been sent
	versions map[uint64]string // the write that set a key at each acknowledged version
}

func newCrashes(t *testing.T, dir string, nodes int) *crashes {
	c := &crashes{dir: dir, values: map[string]string{}, versions: map[uint64]string{}}
	for range nodes {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c.addrs = append(c.addrs, ln.Addr().String())
	}
	return c
}

// command is the process, behind those that are to run it.
func (c *crashes) command(before ...string) *exec.Cmd {
	args := append(before, os.Args[0], "-test.run=^TestCrashingStore$")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), crashDir+"="+c.dir, crashAddrs+"="+strings.Join(c.addrs, " "))
	return cmd
}

// run starts the process and takes its acknowledgements down until it has ended. After
// each, crash may end it.
func (c *crashes) run(t *testing.T, cmd *exec.Cmd, crash func(acks int)) (acks int) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	crash(0)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var writer, n int
		var version uint64
		if _, err := fmt.Sscanf(lines.Text(), "first %d %d", &writer, &n); err == nil {
			c.last[writer] = n - 1
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %d %d", &writer, &n, &version); err != nil {
			said.WriteString(lines.Text() + "\n")
			continue
		}
		key, value := crashOp(writer, n)
		if value != "" { // to delete what is absent takes no version
			write := fmt.Sprintf("write %d of writer %d", n, writer)
			if other, given := c.versions[version]; given {
				t.Fatalf("%s and %s both got version %d", write, other, version)
			}
			c.versions[version] = write
		}
		c.values[key], c.last[writer] = value, n
		acks++
		crash(acks)
	}
	err = cmd.Wait()
	cutWhileItStarts := acks == 0 && strings.Contains(said.String(), syscall.EIO.Error())
	if err != nil && cmd.ProcessState.Exited() && strings.Contains(said.String(), "FAIL") && !cutWhileItStarts {
		t.Fatalf("the process failed: %v\n%s", err, said.String())
	}
	return acks
}

// check starts the nodes again and compares what they have with what was acknowledged.
func (c *crashes) check(t *testing.T) {
	t.Helper()
	stores := openForCrash(t, c.dir, c.addrs)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for writer := range crashWriters {
		for slot := range crashSlots {
			key := fmt.Sprintf("%d/%d", writer, slot)
			entry, err := stores[0].Get(ctx, key)
			if err != nil && !errors.Is(err, kvraft.ErrNotFound) {
				t.Fatalf("%s: %v", key, err)
			}
			pendingKey, pendingValue := crashOp(writer, c.last[writer]+1)
			if got := string(entry.Value); got != c.values[key] && !(key == pendingKey && got == pendingValue) {
				t.Errorf("%s is %.20q, acknowledged was %.20q, and then write %d may have come", key, got, c.values[key], c.last[writer]+1)
			}
			c.values[key] = string(entry.Value)
		}
	}
	version, err := stores[0].Set(ctx, "last", nil)
	if err != nil {
		t.Fatal(err)
	}
	var hashes [][32]byte
	for _, store := range stores {
		if _, err := store.View(ctx, kvraft.AtLeast(version)); err != nil {
			t.Fatal(err)
		}
		_, sum := store.Hash()
		hashes = append(hashes, sum)
	}
	if len(slices.Compact(hashes)) > 1 {
		t.Error("the nodes have different states")
	}
	for _, store := range stores {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// needTool skips the test where a tool is absent; CI has them.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("KVRAFT_TEST_TOOLS") == "required" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
}

func TestNothingAcknowledgedIsLostWhenAProcessIsKilledAtASystemCall(t *testing.T) {
	t.Parallel()
	needTool(t, "strace")
	calls := []string{"fdatasync", "fsync", "pwrite64", "renameat", "unlinkat", "mkdirat", "ftruncate", "openat", "write"}
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			c := newCrashes(t, t.TempDir(), nodes)
			killed, acks := 0, 0
			for round := range scale(t, 12) {
				call, at := calls[round%len(calls)], 1+rand.IntN(1<<(1+rand.IntN(7)))
				cmd := c.command("strace", "-f", "-qq", "-o", "/dev/null",
					"-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, at))
				acks += c.run(t, cmd, func(int) {})
				if !cmd.ProcessState.Success() {
					killed++
				}
				c.check(t)
				if t.Failed() {
					t.Fatalf("killed at %s number %d of a thread, in round %d", call, at, round)
				}
			}
			t.Logf("killed %d times, %d writes acknowledged", killed, acks)
			if killed == 0 {
				t.Error("no process was killed")
			}
		})
	}
}

func TestNothingAcknowledgedIsLostWhenThePowerFails(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a loop mount takes root")
	}
	needTool(t, "mkfs.ext4")
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			disk := newLoopDisk(t)
			c := newCrashes(t, disk.dir, nodes)
			acks := 0
			for range scale(t, 10) {
				cmd, at := c.command(), max(0, rand.IntN(330)-30) // while it starts, or later
				acks += c.run(t, cmd, func(acks int) {
					if acks == at {
						disk.cutPower(t)
						_ = cmd.Process.Kill() // it may have ended
					}
				})
				disk.replace(t)
				c.check(t)
				if t.Failed() {
					break
				}
			}
			t.Logf("%d writes acknowledged", acks)
		})
	}
}

// loopDisk is a file system that can lose power.
type loopDisk struct{ image, dir string }

func newLoopDisk(t *testing.T) *loopDisk {
	t.Helper()
	d := &loopDisk{filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "disk")}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 256<<20), os.Mkdir(d.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	d.do(t, "mkfs.ext4", "-q", d.image)
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		t.Skipf("no loop mount here: %v: %s", err, out)
	}
	t.Cleanup(func() { d.do(t, "umount", "-l", d.dir) })
	return d
}

func (d *loopDisk) do(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", name, err, out)
	}
}

// replace mounts what is on the disk anew. It is a copy: where another mount namespace
// has the file system too, it stays, without power.
func (d *loopDisk) replace(t *testing.T) {
	t.Helper()
	next := filepath.Join(t.TempDir(), "image")
	d.do(t, "umount", d.dir)
	d.do(t, "cp", "--sparse=always", d.image, next)
	d.do(t, "rm", d.image)
	d.image = next
	d.do(t, "mount", "-o", "loop", d.image, d.dir)
}

// cutPower makes the file system drop what was not synced, and fail from then on.
func (d *loopDisk) cutPower(t *testing.T) {
	t.Helper()
	const shutdown, noLogFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN
	f, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		t.Fatal(errno)
	}
}

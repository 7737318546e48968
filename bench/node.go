package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/kvraft/kvraft"
)

// One node in a process of its own, for what only a process can tell: how much
// memory a node takes. It is this program, started again.

const nodeEnv = "KVRAFT_BENCH_NODE" // its nodeConfig, as JSON

type nodeConfig struct {
	ID, Dir, Addr string
	Peers         []string
}

// nodeMemory is what a node answers.
type nodeMemory struct {
	Leads bool
	Peak  int64 // bytes that Go has taken from the system, garbage included
	Data  int64 // bytes of keys and values
}

// beChild is main of a process that this program has started, unless it returns false.
func beChild() bool {
	for env, child := range map[string]interface{ run(context.Context) error }{nodeEnv: &nodeConfig{}, keysEnv: &keysConfig{}} {
		encoded, ok := os.LookupEnv(env)
		if !ok {
			continue
		}
		err := json.Unmarshal([]byte(encoded), child)
		if err == nil {
			err = child.run(context.Background())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return true
	}
	return false
}

// again is this program as such a process.
func again(ctx context.Context, env string, config any) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	child := exec.CommandContext(ctx, program)
	child.Env = append(os.Environ(), env+"="+string(encoded))
	child.Stderr = os.Stderr
	return child, nil
}

// run makes as many writes as a line of standard input says, answers with a nodeMemory,
// and ends with its input.
func (c nodeConfig) run(ctx context.Context) (err error) {
	store, err := kvraft.Open(c.Dir, kvraft.WithID(c.ID), kvraft.WithAddr(c.Addr), kvraft.WithJoin(c.Peers...), kvraft.WithBootstrapExpect(len(c.Peers)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var peak atomic.Int64
	go func() { // to the end of the process
		for ; ; time.Sleep(5 * time.Millisecond) {
			peak.Store(max(peak.Load(), footprint()))
		}
	}()
	alone := &kvraftCluster{stores: []*kvraft.Store{store}}
	if err := eventually(ctx, "the cluster", alone.ready); err != nil {
		return err
	}
	answers := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		writes, err := strconv.Atoi(lines.Text())
		if err == nil {
			err = setEach(ctx, alone, slices.Repeat([]string{"key"}, writes), newValue(64<<10)) // as many as go into groups at once
		}
		st := store.Status()
		if err := errors.Join(err, answers.Encode(nodeMemory{st.State == kvraft.Leading, peak.Load(), st.Bytes})); err != nil {
			return err
		}
	}
	return nil
}

// footprint is what Go has from the system. Pages of files are not in it.
func footprint() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64() - sample[1].Value.Uint64())
}

const groupMemory = "memory of a node beside its data, under 512 KiB groups"

// nodeMemory measures what each of three nodes takes while 64 KB values are written
// in groups of 512 KiB, and notes the largest. The writes are 4,000, which is 250 MB of
// log: caches are full, and snapshots are taken.
func (b *bench) nodeMemory(ctx context.Context) error {
	return b.inDir(kvraftDefault, 3, func(at site) (err error) {
		var children []*child
		defer func() {
			for _, c := range children {
				err = errors.Join(err, c.stop())
			}
		}()
		for i := range at.dirs {
			c, err := startNode(ctx, nodeConfig{nodeName(i), at.dirs[i], at.peers[i], at.peers})
			if err != nil {
				return err
			}
			children = append(children, c)
		}
		most, err := loadNodes(children, min(b.many, million)/250)
		if err != nil {
			return err
		}
		taken := float64(most.Peak - most.Data)
		b.figures.add(name{groupMemory, kvraftName, memory}, taken)
		b.say("a node under 512 KiB groups takes %s beside %s of data", memory.format(taken), memory.format(float64(most.Data)))
		return nil
	})
}

// loadNodes lets the leader write, and returns the node that took most beside its
// data.
func loadNodes(children []*child, writes int) (most nodeMemory, err error) {
	leads := func(m nodeMemory) bool { return m.Leads }
	i, _, err := first(children, leads)
	if err != nil {
		return most, fmt.Errorf("wait for a leader: %w", err)
	}
	if _, err := children[i].ask(writes); err != nil {
		return most, err
	}
	for i := range children { // the others may be a little behind
		_, m, err := first(children[i:i+1], func(m nodeMemory) bool { return m.Data > 0 })
		if err != nil {
			return most, fmt.Errorf("wait for what was written: %w", err)
		}
		if m.Peak-m.Data > most.Peak-most.Data {
			most = m
		}
	}
	return most, nil
}

// first asks the nodes in turn until one is as wanted.
func first(children []*child, wanted func(nodeMemory) bool) (int, nodeMemory, error) {
	const patience, pause = 30 * time.Second, 10 * time.Millisecond
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pause) {
		for i, c := range children {
			if m, err := c.ask(0); err != nil || wanted(m) {
				return i, m, err
			}
		}
	}
	return 0, nodeMemory{}, fmt.Errorf("not within %v", patience)
}

// child is a node's process, seen from outside.
type child struct {
	process *exec.Cmd
	stdin   io.WriteCloser
	answers *json.Decoder
}

func startNode(ctx context.Context, config nodeConfig) (*child, error) {
	process, err := again(ctx, nodeEnv, config)
	if err != nil {
		return nil, err
	}
	c := &child{process: process}
	stdout, err := c.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.answers = json.NewDecoder(stdout)
	if c.stdin, err = c.process.StdinPipe(); err != nil {
		return nil, err
	}
	return c, c.process.Start()
}

func (c *child) ask(writes int) (m nodeMemory, err error) {
	if _, err := fmt.Fprintln(c.stdin, writes); err != nil {
		return m, fmt.Errorf("a node's process: %w", err)
	}
	if err := c.answers.Decode(&m); err != nil {
		return m, fmt.Errorf("a node's process: %w", err)
	}
	return m, nil
}

// stop ends the input of the process, and with it the process.
func (c *child) stop() error { return errors.Join(c.stdin.Close(), c.process.Wait()) }

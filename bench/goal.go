package main

import "fmt"

// A goal holds one figure against another of the same run, or against a bound of
// its own.
type goal struct {
	what  string
	of    name
	over  name    // zero: the bound is absolute, in the unit of the figure
	least bool    // the bound is a lower one
	bound float64 // of the quotient of the medians, if there is an over
}

// flat is how much of the speed over few keys is to be left over many.
const flat = 0.8

// goals are what kvraft is built to reach; keys is what they say of a million.
func goals(keys int) []goal {
	const kv = kvraftName
	w1, w256, w1024 := writes(1, 100).String(), writes(256, 100).String(), writes(1024, 100).String()
	r1, r256 := reads(linearizable, leader, 1).String(), reads(linearizable, leader, 256).String()
	f1, s256 := reads(linearizable, follower, 1).String(), reads(stale, leader, 256).String()
	few, many := overKeys(fewestKeys), overKeys(keys)
	return []goal{
		{"writes, 256 writers, 100 B, in process", name{w256, kv, rate}, name{w256, etcd.name, rate}, true, 3.5},
		{"writes, 256 writers, 100 B, in process", name{w256, kv, rate}, name{w256, nats.name, rate}, true, 1.3},
		{"writes, 1024 writers", name{w1024, kv, rate}, name{w1024, etcd.name, rate}, true, 4.5},
		{"writes, 1 writer, p50", name{w1, kv, p50}, name{batches[0].String() + besideWriters.where, written.name, p50}, false, 8},
		{"linearizable reads on the leader, 256 readers", name{r256, kv, rate}, name{r256, etcd.name, rate}, true, 2},
		{"linearizable read on the leader, 1 reader, p50", name{r1, kv, p50}, name{r1, etcd.name, p50}, false, 1},
		{"linearizable read through a follower, 1 reader, p50", name{f1, kv, p50}, name{r1, kv, p50}, false, 3},
		{"stale reads, 256 readers", name{s256, kv, rate}, name{s256, etcd.name, rate}, true, 10},
		{"HTTP POST /key, 256 connections", name{post(256).String(), kv, rate}, name{post(256).String(), ungrouped.name, rate}, true, 2.5},
		{"HTTP GET /key/{key}, 256 connections", name{get(256).String(), kv, rate}, name{get(256).String(), empty.name, rate}, true, 0.8},
		{"writes, 256 writers" + many, name{w256 + many, kv, rate}, name{w256 + few, kv, rate}, true, flat},
		{"linearizable reads on the leader, 256 readers" + many, name{r256 + many, kv, rate}, name{r256 + few, kv, rate}, true, flat},
		{"stale reads, 256 readers" + many, name{s256 + many, kv, rate}, name{s256 + few, kv, rate}, true, flat},
		{"leader killed, kvd processes, median pause", name{leaderKilled, kvdInTest, took}, name{}, false, 0.1},
		{"leader stopped in order, kvd processes, median pause", name{leaderClosed, kvdInTest, took}, name{}, false, 0.015},
		{fsmSnapshot(keys), name{fsmSnapshot(keys), kv, took}, name{}, false, 1e-3},
		{"writers' p99.9 while a snapshot is persisted" + overKeys(keys), name{duringSnapshot(keys), kv, p999}, name{withoutSnapshot(keys), kv, p999}, false, 1.5},
		{memoryPerKey, name{memoryPerKey, kv, memory}, name{}, false, 300},
		{"memory of a node under 512 KiB groups, beside its data", name{groupMemory, kv, memory}, name{}, false, 512 << 20},
	}
}

// judged is a goal with what was measured. A goal whose figures were not measured
// has no verdict, and is left out.
type judged struct {
	goal
	of, over figure
	value    float64 // the quotient, or the figure itself
}

func judge(goals []goal, fs *figures) []judged {
	var all []judged
	for _, g := range goals {
		of, ok := fs.get(g.of)
		if !ok {
			continue
		}
		j := judged{goal: g, of: of, value: of.median()}
		if g.over != (name{}) {
			if j.over, ok = fs.get(g.over); !ok {
				continue
			}
			j.value /= j.over.median()
		}
		all = append(all, j)
	}
	return all
}

func (j judged) reached() bool {
	if j.least {
		return j.value >= j.bound
	}
	return j.value <= j.bound
}

func (j judged) verdict() string {
	if j.reached() {
		return "reached"
	}
	return "MISSED"
}

// wants is the goal in words.
func (j judged) wants() string {
	sign := "≤"
	if j.least {
		sign = "≥"
	}
	if j.goal.over == (name{}) {
		return sign + " " + j.goal.of.Metric.format(j.bound)
	}
	return fmt.Sprintf("%s %g × %s", sign, j.bound, j.beside())
}

// has is what was measured, in the same words.
func (j judged) has() string {
	if j.goal.over == (name{}) {
		return j.of.String()
	}
	return fmt.Sprintf("%.2f × (%s over %s)", j.value, j.of, j.over)
}

// beside says what the figure is held against.
func (j judged) beside() string {
	if j.goal.over.System == j.goal.of.System {
		return j.goal.over.What
	}
	return j.goal.over.System
}

package main

import (
	"fmt"
	"slices"
	"time"
)

// metric is what a figure counts, and thereby its unit.
type metric string

const (
	rate   metric = "per second"
	p50    metric = "p50"   // seconds, like all latencies
	p99    metric = "p99"   // likewise
	p999   metric = "p99.9" // likewise
	took   metric = "time"  // likewise
	memory metric = "bytes"
)

// name tells figures apart.
type name struct {
	What   string // a workload, or whatever else was measured
	System string
	Metric metric
}

// figure is one thing that was measured, once in each round.
type figure struct {
	name
	Rounds []float64
}

// median is the lower one of an even number: a round that took place.
func (f figure) median() float64 {
	sorted := slices.Sorted(slices.Values(f.Rounds))
	return sorted[(len(sorted)-1)/2]
}

func (f figure) String() string { return f.Metric.format(f.median()) }

// spread is the least and the most of the rounds.
func (f figure) spread() string {
	return f.Metric.format(slices.Min(f.Rounds)) + " – " + f.Metric.format(slices.Max(f.Rounds))
}

func (m metric) format(x float64) string {
	switch m {
	case rate:
		return thousands(int64(x + 0.5))
	case memory:
		if x >= 1<<20 {
			return fmt.Sprintf("%.0f MiB", x/(1<<20))
		}
		return fmt.Sprintf("%.0f B", x)
	}
	return latency(time.Duration(x * float64(time.Second)))
}

func latency(d time.Duration) string {
	switch {
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.2f µs", float64(d)/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func thousands(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// figures keeps what was measured, in the order in which it was first measured.
type figures struct {
	all []*figure
	by  map[name]*figure
}

func (fs *figures) add(n name, x float64) {
	f := fs.by[n]
	if f == nil {
		f = &figure{name: n}
		if fs.by == nil {
			fs.by = make(map[name]*figure)
		}
		fs.by[n], fs.all = f, append(fs.all, f)
	}
	f.Rounds = append(f.Rounds, x)
}

func (fs *figures) addRun(what, system string, r run) {
	fs.add(name{what, system, rate}, r.perSecond)
	fs.add(name{what, system, p50}, r.quantile(50).Seconds())
	fs.add(name{what, system, p99}, r.quantile(99).Seconds())
	fs.add(name{what, system, p999}, r.quantile(99.9).Seconds())
}

func (fs *figures) get(n name) (figure, bool) {
	if f := fs.by[n]; f != nil {
		return *f, true
	}
	return figure{}, false
}

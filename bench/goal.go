package main

import "fmt"

// A goal holds one figure against another of the same run, or against a bound of
// its own.
type goal struct {
	of    name
	over  name    // zero: the bound is absolute, in the unit of the figure
	least bool    // the bound is a lower one
	bound float64 // of the quotient of the medians, if there is an over
}

func atLeast(bound float64, of, over name) goal { return goal{of, over, true, bound} }
func atMost(bound float64, of, over name) goal  { return goal{of, over, false, bound} }

// goals are what kvraft is built to reach; keys is what they say of a million.
func goals(keys int) (all []goal) {
	ours := func(l load, where string) name { return name{l.String() + where, kvraftName, rate} }
	beside := func(bound float64, l load, s system) {
		all = append(all, atLeast(bound, ours(l, ""), name{l.String(), s.name, rate}))
	}
	all = append(all, atMost(2, name{writes(1, 100).String(), kvraftName, p50}, name{batches[0].String() + besideWriters.where, written.name, p50}))
	beside(1.3, writes(1, 100), etcd)
	beside(1.2, writes(16, 64<<10), etcd)
	beside(5, writes(256, 100), etcd)
	beside(2, writes(256, 100), nats)
	beside(6, writes(1024, 100), etcd)
	beside(3.5, writes(256, 1<<10), etcd)
	for _, l := range readsOf(etcd) {
		beside(1, l, etcd)
	}
	beside(2.5, post(256), ungrouped)
	beside(0.85, get(256), empty)
	for i, bound := range []float64{0.8, 0.8, 0.5} { // of the speed over few keys
		all = append(all, atLeast(bound, ours(costLoads[i], overKeys(keys)), ours(costLoads[i], overKeys(fewestKeys))))
	}
	return append(all,
		atMost(1.5, name{restarted(keys), kvraftName, took}, name{}),
		atMost(1.3, name{duringSnapshot(keys), kvraftName, p999}, name{withoutSnapshot(keys), kvraftName, p999}),
		atMost(0.1, name{leaderKilled, kvdInTest, took}, name{}),
		atMost(0.015, name{leaderClosed, kvdInTest, took}, name{}),
		atMost(300, name{memoryPerKey, kvraftName, memory}, name{}),
		atMost(512<<20, name{groupMemory, kvraftName, memory}, name{}),
	)
}

// measured is a goal with its figures. A goal whose figures were not measured is left out.
type measured struct {
	goal
	of, over figure
	value    float64 // the quotient, or the figure itself
}

func compare(goals []goal, fs *figures) (all []measured) {
	for _, g := range goals {
		of, ok := fs.get(g.of)
		if !ok {
			continue
		}
		m := measured{goal: g, of: of, value: of.median()}
		if g.over != (name{}) {
			if m.over, ok = fs.get(g.over); !ok {
				continue
			}
			m.value /= m.over.median()
		}
		all = append(all, m)
	}
	return all
}

// wants is the bound in words.
func (g goal) wants() string {
	bound, sign := fmt.Sprint(g.bound), "≤ "
	if g.over == (name{}) {
		bound = g.of.Metric.format(g.bound)
	}
	if g.least {
		sign = "≥ "
	}
	return sign + bound
}

// what is the figure in words, the metric too where it is not the usual one of its unit.
func (g goal) what() string {
	switch g.of.Metric {
	case p50, p999:
		return fmt.Sprintf("%s, %s", g.of.What, g.of.Metric)
	}
	return g.of.What
}

// beside says what the figure is held against.
func (g goal) beside() string {
	if g.over.System == g.of.System {
		return g.over.What
	}
	return g.over.System
}

// row has what, the figure, over what, the ratio and the bound.
func (m measured) row() []string {
	if m.goal.over == (name{}) {
		return []string{m.what(), m.of.String(), "", "", m.wants()}
	}
	return []string{m.what(), m.of.String(), fmt.Sprintf("%s: %s", m.beside(), m.over), fmt.Sprintf("%.2f", m.value), m.wants()}
}

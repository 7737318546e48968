package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// A table has a heading for each column and rows of as many cells.
type table struct {
	title string
	heads []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t table) text(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n\n", t.title)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.heads}, t.rows...) {
		fmt.Fprintln(columns, strings.Join(row, "\t"))
	}
	return columns.Flush()
}

func (t table) markdown(w io.Writer) error {
	rule := slices.Repeat([]string{"---"}, len(t.heads))
	fmt.Fprintf(w, "\n**%s**\n\n", t.title)
	for _, row := range append([][]string{t.heads, rule}, t.rows...) {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | ")); err != nil {
			return err
		}
	}
	return nil
}

// headlines are the figures that there are goals for.
func headlines(all []measured) table {
	t := table{title: "What counts for users", heads: []string{"what", "kvraft", "over", "ratio", "goal"}}
	for _, m := range all {
		t.add(m.row()...)
	}
	return t
}

// throughputs has a row for each load and system.
func throughputs(fs *figures) table {
	t := table{title: "Throughput and latency", heads: []string{"load", "system", "per second", "least – most", "p50", "p99", "p99.9", "kvraft does"}}
	for _, what := range fs.loads() {
		for i, f := range fs.of(what) {
			at := func(m metric) string { x, _ := fs.get(name{what, f.System, m}); return x.String() }
			head := what
			if i > 0 {
				head = ""
			}
			t.add(head, f.System, f.String(), f.spread(), at(p50), at(p99), at(p999), fs.times(f))
		}
	}
	return t
}

// side is throughputs with the systems side by side.
func side(fs *figures) table {
	t := table{title: "Calls per second, their p50, and how many times as many kvraft does", heads: []string{"load"}}
	for _, s := range allSystems {
		t.heads = append(t.heads, s.name)
	}
	for _, what := range fs.loads() {
		row, found := []string{what}, false
		for _, s := range allSystems {
			f, ok := fs.get(name{what, s.name, rate})
			if !ok {
				row = append(row, "")
				continue
			}
			half, _ := fs.get(name{what, s.name, p50})
			row = append(row, strings.TrimSuffix(fmt.Sprintf("%s · %s · %s", f, half, fs.times(&f)), " · "))
			found = found || s.name != kvraftName
		}
		if found {
			t.add(row...)
		}
	}
	return t
}

// logTable has the logs side by side, each beside the disk.
func logTable(fs *figures) table {
	t := table{title: "The log alone: p50 of StoreLogs, and how many times that of the disk", heads: []string{"entries at once"}}
	for _, s := range logSystems {
		t.heads = append(t.heads, s.name)
	}
	for _, b := range batches {
		row, bare := []string{fmt.Sprintf("%d × %s", b.entries, size(b.bytes))}, name{b.String(), written.name, p50}
		disk, ok := fs.get(bare)
		if !ok {
			continue
		}
		for _, s := range logSystems {
			f, ok := fs.get(name{b.String(), s.name, p50})
			switch {
			case !ok:
				row = append(row, "")
			case f.name == bare:
				row = append(row, f.String())
			default:
				row = append(row, fmt.Sprintf("%s · %.2f ×", f, f.median()/disk.median()))
			}
		}
		t.add(row...)
	}
	return t
}

// loads are what was measured as a throughput, in the order of the first round.
func (fs *figures) loads() (whats []string) {
	for _, f := range fs.all {
		if f.Metric == rate && !slices.Contains(whats, f.What) {
			whats = append(whats, f.What)
		}
	}
	return whats
}

// of are the throughputs of all systems under a load.
func (fs *figures) of(what string) []*figure {
	return slices.DeleteFunc(slices.Clone(fs.all), func(f *figure) bool { return f.Metric != rate || f.What != what })
}

// times is kvraft's throughput by that of another system.
func (fs *figures) times(f *figure) string {
	ours, ok := fs.get(name{f.What, kvraftName, rate})
	if !ok || f.System == kvraftName {
		return ""
	}
	return fmt.Sprintf("%.2f ×", ours.median()/f.median())
}

// others are the figures that are no loads.
func others(fs *figures) table {
	t := table{title: "Sizes and times", heads: []string{"what", "system", "median", "least – most"}}
	for _, f := range fs.all {
		if f.Metric == took || f.Metric == memory {
			t.add(f.What, f.System, f.String(), f.spread())
		}
	}
	return t
}

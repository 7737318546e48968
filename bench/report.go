package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// report prints what was measured, and draws it.
func (c config) report(w io.Writer, fs *figures, keys int) error {
	if c.plots != "" {
		if err := writePlots(c.plots, fs); err != nil {
			return err
		}
	}
	compared := compare(goals(keys), fs)
	if c.json {
		return writeJSON(w, fs, compared)
	}
	tables, write := []table{headlines(compared), logTable(fs), throughputs(fs), others(fs)}, table.text
	if c.markdown {
		tables, write = []table{headlines(compared), side(fs), logTable(fs), others(fs), throughputs(fs)}, table.markdown
	}
	if _, err := fmt.Fprintf(w, "\n%s.\n", environment()); err != nil {
		return err
	}
	for _, t := range tables {
		if len(t.rows) == 0 {
			continue
		}
		if err := write(t, w); err != nil {
			return err
		}
	}
	return nil
}

// environment is what the figures depend on, in a sentence.
func environment() string {
	return fmt.Sprintf("%s %s/%s, %d CPUs; %s", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), strings.Join(versions(), ", "))
}

// versions are those of what is measured.
func versions() (vs []string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	of := []string{"go.etcd.io/etcd/server/v3", "github.com/nats-io/nats-server/v2", "github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb/v2", "github.com/hashicorp/raft-wal", "go.etcd.io/bbolt"}
	for _, m := range info.Deps {
		if slices.Contains(of, m.Path) {
			vs = append(vs, m.Path+" "+m.Version)
		}
	}
	return vs
}

type jsonFigure struct {
	What   string    `json:"what"`
	System string    `json:"system"`
	Metric metric    `json:"metric"` // times are in seconds
	Median float64   `json:"median"`
	Rounds []float64 `json:"rounds"`
}

type jsonGoal struct {
	What  string  `json:"what"`
	Over  string  `json:"over,omitempty"` // a system, or what the same one does
	Goal  string  `json:"goal"`
	Value float64 `json:"value"` // a ratio, or where nothing is over, in the unit of the figure
}

func writeJSON(w io.Writer, fs *figures, compared []measured) error {
	out := struct {
		Go       string       `json:"go"`
		Platform string       `json:"platform"`
		CPUs     int          `json:"cpus"`
		Versions []string     `json:"versions"`
		Goals    []jsonGoal   `json:"goals"`
		Figures  []jsonFigure `json:"figures"`
	}{Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Versions: versions()}
	for _, m := range compared {
		out.Goals = append(out.Goals, jsonGoal{m.what(), m.beside(), m.wants(), m.value})
	}
	for _, f := range fs.all {
		out.Figures = append(out.Figures, jsonFigure{f.What, f.System, f.Metric, f.median(), f.Rounds})
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}

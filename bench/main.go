// Command bench measures kvraft beside embedded etcd and embedded NATS JetStream.
//
//	go run .                  everything, in some 35 minutes
//	go run . -short           what the goals are about, in some seven minutes
//	go run . -json            for a machine
//	go run . -markdown        for BENCHMARKS.md, -plots DIR with plots
//
// Every system has its nodes in this process, each with a directory of its own on
// the same file system, and they speak TCP over loopback. Clients are goroutines of
// this process. All systems write to disk before they acknowledge, with fsync or
// fdatasync, but for what is marked "no fsync".
//
// The systems take turns, round by round, and figures are medians of the rounds; only
// the one that is measured is running. What is true of them together is their ratio:
// figures of two runs, or of two machines, do not compare.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	if beChild() {
		return
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := execute(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type config struct {
	short, json, markdown bool
	plots, dir, only      string
	systems               string
	rounds, keys          int
	duration              time.Duration
}

func execute(ctx context.Context, args []string) error {
	var c config
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&c.short, "short", false, "measure what the goals are about, in some seven minutes")
	flags.BoolVar(&c.json, "json", false, "print JSON")
	flags.BoolVar(&c.markdown, "markdown", false, "print tables in Markdown")
	flags.StringVar(&c.plots, "plots", "", "write plots, as SVG, into this `directory`")
	flags.StringVar(&c.dir, "dir", "", "put the nodes' data below this `directory`, which says which disk is measured (default: that of temporary files)")
	flags.StringVar(&c.only, "only", "", "measure only these `sections`, separated by commas: "+sectionNames(full))
	flags.StringVar(&c.systems, "systems", "", "measure only these `systems`, separated by commas: "+systemNames(allSystems))
	flags.IntVar(&c.rounds, "rounds", 5, "`rounds` of which the median counts")
	flags.IntVar(&c.keys, "keys", million, "have so many `keys` where it is about their number; 10000000 needs 24 GiB")
	flags.DurationVar(&c.duration, "d", 0, "how long each measurement takes (default 1s, with -short 250ms)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	sections, err := c.sections()
	if err != nil {
		return err
	}
	b, err := c.bench()
	if err != nil {
		return err
	}
	var errs []error // of one section; the others are measured all the same
	for _, s := range sections {
		if err := s.run(b, ctx); err != nil {
			b.say("%s: %v", s.name, err)
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir), c.report(os.Stdout, &b.figures, b.many))...)
}

func (c config) sections() ([]section, error) {
	all := full
	if c.short {
		all = short
	}
	if c.only == "" {
		return all, nil
	}
	var chosen []section
	for name := range strings.SplitSeq(c.only, ",") {
		i := slices.IndexFunc(all, func(s section) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: the sections are %s", name, sectionNames(all))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func sectionNames(sections []section) string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return strings.Join(names, ",")
}

// chosen are the names of the systems to measure; nil: all.
func (c config) chosen() ([]string, error) {
	if c.systems == "" {
		return nil, nil
	}
	names := strings.Split(c.systems, ",")
	for _, chosen := range names {
		if !slices.ContainsFunc(allSystems, func(s system) bool { return s.name == chosen }) {
			return nil, fmt.Errorf("-systems %s: the systems are %s", chosen, systemNames(allSystems))
		}
	}
	return names, nil
}

func systemNames(systems []system) string {
	var names []string
	for _, s := range systems {
		names = append(names, s.name)
	}
	return strings.Join(names, ",")
}

func (c config) bench() (*bench, error) {
	if c.rounds < 1 || c.keys < fewestKeys {
		return nil, fmt.Errorf("want at least one round and %d keys", fewestKeys)
	}
	chosen, err := c.chosen()
	if err != nil {
		return nil, err
	}
	b := &bench{rounds: c.rounds, many: c.keys, chosen: chosen, duration: cmp.Or(c.duration, time.Second), say: progress(os.Stderr)}
	if c.short {
		b.duration = cmp.Or(c.duration, 250*time.Millisecond)
	}
	b.warmUp = b.duration / 4
	b.dir, err = os.MkdirTemp(c.dir, "kvraft-bench")
	return b, err
}

// progress writes lines with the time since the start; on a terminal, each in place
// of the last.
func progress(w *os.File) func(format string, args ...any) {
	begin, ahead, behind := time.Now(), "", "\n"
	if info, err := w.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		ahead, behind = "\r\x1b[K", ""
	}
	return func(format string, args ...any) {
		fmt.Fprintf(w, "%s[%4.0fs] %s%s", ahead, time.Since(begin).Seconds(), fmt.Sprintf(format, args...), behind)
	}
}

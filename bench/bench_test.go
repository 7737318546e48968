package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMain(m *testing.M) {
	if beChild() {
		return
	}
	os.Exit(m.Run())
}

func newTestBench(t *testing.T) *bench {
	return &bench{dir: t.TempDir(), rounds: 2, many: 2000, warmUp: 10 * time.Millisecond, duration: 50 * time.Millisecond, say: t.Logf}
}

func TestEverySystemTakesItsLoads(t *testing.T) {
	b := newTestBench(t)
	all := []load{writes(16, 100), reads(linearizable, leader, 16), reads(linearizable, follower, 1), reads(stale, follower, 16), workload{mix, 16, 1 << 10, leader, linearizable}}
	visits := []visit{
		{system: kvraftDefault, loads: append(slices.Clone(all), post(4), get(4))},
		{system: etcd, loads: all, nodes: 1},
		{system: etcdGRPC, loads: all, nodes: 1},
		{system: nats, loads: []load{writes(16, 100), reads(stale, leader, 16)}, nodes: 1},
		{system: natsFsync, loads: []load{writes(16, 100)}, nodes: 1},
		{system: ungrouped, loads: []load{post(4)}, nodes: 1},
		{system: empty, loads: []load{get(4)}},
	}
	for _, s := range logSystems {
		visits = append(visits, visit{system: s, nodes: 1, loads: []load{batches[0], batches[2]}})
	}
	for i := range visits {
		visits[i].keys = newKeys(200)
	}
	if err := b.interleave(t.Context(), visits); err != nil {
		t.Fatal(err)
	}
	for _, f := range b.figures.all {
		if len(f.Rounds) != b.rounds || slices.Min(f.Rounds) <= 0 {
			t.Errorf("%v: %v", f.name, f.Rounds)
		}
	}
	if n := len(throughputs(&b.figures).rows); n != 3*len(all)+2+2+1+1+1+2*len(logSystems) {
		t.Errorf("%d loads were measured", n)
	}
	if left, err := os.ReadDir(b.dir); err != nil || len(left) > 0 {
		t.Errorf("left on the disk: %v, %v", left, err)
	}
}

func TestWhatIsMeasuredBesideLoads(t *testing.T) {
	b := newTestBench(t)
	b.rounds = 1
	if err := errors.Join(b.restart(t.Context(), kvraftDefault, newKeys(b.many)), b.nodeMemory(t.Context()), b.keyMemory(t.Context(), kvraftDefault, 20_000), b.renewals(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, n := range []name{{restarted(b.many), kvraftName, took}, {renewed(b.many), kvraftName, took}, {groupMemory, kvraftName, memory}, {memoryPerKey, kvraftName, memory}} {
		if f, ok := b.figures.get(n); !ok || f.median() <= 0 {
			t.Errorf("%v: %v", n, f)
		}
	}
}

func TestEveryCallIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause, clients = 10 * time.Millisecond, 5
		calls := slices.Repeat([]call{func(context.Context) error { time.Sleep(pause); return nil }}, clients)
		r, err := measure(t.Context(), calls, pause/2, time.Second)
		if err != nil || r.perSecond != 500 || r.latency.TotalCount() != 500 || r.quantile(50).Round(time.Millisecond) != pause {
			t.Errorf("%v/s, p50 %v, %d latencies, %v", r.perSecond, r.quantile(50), r.latency.TotalCount(), err)
		}
		refused := errors.New("refused")
		if _, err := measure(t.Context(), append(calls, func(context.Context) error { return refused }), 0, time.Minute); !errors.Is(err, refused) {
			t.Errorf("an error was lost: %v", err)
		}
	})
}

func TestPacedCallsKeepToTheirSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop, first := make(chan struct{}), true
		time.AfterFunc(9950*time.Millisecond, func() { close(stop) })
		done, err := paced(t.Context(), []call{func(context.Context) error {
			if first { // and late for the next three
				first = false
				time.Sleep(350 * time.Millisecond)
			}
			return nil
		}}, 10, stop)
		var late time.Duration
		for _, one := range done {
			late += one.end.Sub(one.begin)
		}
		if err != nil || len(done) != 100 || late != (350+250+150+50)*time.Millisecond {
			t.Errorf("%d calls took %v, %v", len(done), late, err)
		}
	})
}

func TestGoalsAreHeldAgainstMedians(t *testing.T) {
	var fs figures
	for _, x := range []float64{900, 350, 360} {
		fs.add(name{"load", "ours", rate}, x)
	}
	for _, x := range []float64{100, 1, 200} {
		fs.add(name{"load", "theirs", rate}, x)
	}
	fs.add(name{"pause", "ours", took}, 0.002)
	ours, theirs := name{"load", "ours", rate}, name{"load", "theirs", rate}
	got := compare([]goal{
		atLeast(3.5, ours, theirs),
		atMost(1e-3, name{"pause", "ours", took}, name{}),
		atLeast(1, ours, name{"load", "nobody's", rate}),
	}, &fs)
	want := [][]string{
		{"load", "360", "theirs: 100", "3.60", "≥ 3.5"},
		{"pause", "2.00 ms", "", "", "≤ 1.00 ms"},
	}
	if rows := headlines(got).rows; !slices.EqualFunc(rows, want, slices.Equal) {
		t.Errorf("got %q", rows)
	}
}

func TestEveryGoalIsAboutWhatIsMeasured(t *testing.T) {
	measured := map[string]bool{
		withoutSnapshot(million): true, duringSnapshot(million): true, restarted(million): true,
		memoryPerKey: true, groupMemory: true, leaderKilled: true, leaderClosed: true,
	}
	for _, l := range costLoadsOf(kvraftDefault) {
		measured[l.String()+overKeys(fewestKeys)], measured[l.String()+overKeys(million)] = true, true
	}
	for _, v := range headlineVisits() {
		for _, l := range v.loads {
			measured[l.String()+v.where+v.system.name] = true
		}
	}
	for _, g := range goals(million) {
		for _, n := range []name{g.of, g.over} {
			if n != (name{}) && !measured[n.What] && !measured[n.What+n.System] {
				t.Errorf("%s: nothing measures %v", g.what(), n)
			}
		}
	}
}

func TestReportsCanBeRead(t *testing.T) {
	var fs figures
	for _, n := range writerCounts {
		for _, s := range allSystems {
			r, err := measure(t.Context(), []call{func(context.Context) error { return nil }}, 0, time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			fs.addRun(writes(n, 100).String(), s.name, r)
		}
	}
	dir := t.TempDir()
	var text, markdown, encoded bytes.Buffer
	if err := errors.Join(config{plots: dir}.report(&text, &fs, million), config{markdown: true}.report(&markdown, &fs, million), config{json: true}.report(&encoded, &fs, million)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "write 100 B × 1024") || !strings.Contains(markdown.String(), "| write 100 B × 1024 | ") {
		t.Errorf("got %s and %s", &text, &markdown)
	}
	var back struct{ Figures []jsonFigure }
	if err := json.Unmarshal(encoded.Bytes(), &back); err != nil || len(back.Figures) != len(fs.all) {
		t.Errorf("%d figures, %v", len(back.Figures), err)
	}
	plots, err := os.ReadDir(dir)
	if err != nil || len(plots) != 2 {
		t.Fatalf("plots: %v, %v", plots, err)
	}
	for _, p := range plots {
		checkXML(t, dir+"/"+p.Name())
	}
}

func checkXML(t *testing.T, path string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

func TestAnAnswerIsReadToItsEnd(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: x\r\n\r\nabc"
	r := bufio.NewReader(strings.NewReader(ok + ok + "HTTP/1.1 503 Service Unavailable\r\n"))
	if err := errors.Join(readAnswer(r), readAnswer(r)); err != nil {
		t.Error(err)
	}
	if err := readAnswer(r); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", ok[:20], ok[:len(ok)-1], "HTTP/1.1 200 OK\r\n\r\n"} {
		if err := readAnswer(bufio.NewReader(strings.NewReader(bad))); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestTheFiguresOfGoBenchmarksAreFound(t *testing.T) {
	const out = "goos: linux\nBenchmarkFailover/kill_-9-2 \t 9\t 51.20 median-ms\t 80.1 worst-ms\t 0 failed-calls\nBenchmarkFailover/stop-2 9 11 median-ms\n"
	ms, err := reported(out, "BenchmarkFailover/stop", "median-ms")
	if err != nil || ms != 11 {
		t.Errorf("got %v, %v", ms, err)
	}
	if _, err := reported(out, "BenchmarkFailover/other", "median-ms"); err == nil {
		t.Error("found what is not there")
	}
}

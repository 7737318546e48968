package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A plot is lines over two logarithmic axes.
type plot struct {
	file, title, x, y string
	lines             []line
}

type line struct {
	name   string
	points []point
}

type point struct{ x, y float64 }

// writePlots draws what was measured; a plot of which nothing was is left out.
func writePlots(dir string, fs *figures) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range []plot{throughputOverWriters(fs), latencyOverThroughput(fs), costOverKeys(fs)} {
		if len(p.lines) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, p.file), []byte(p.svg()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// lines returns one line for each system of which at least two points were measured.
func (fs *figures) lines(systems []system, at func(system string) []point) (lines []line) {
	for _, s := range systems {
		if points := at(s.name); len(points) > 1 {
			lines = append(lines, line{s.name, points})
		}
	}
	return lines
}

func throughputOverWriters(fs *figures) plot {
	return plot{"throughput.svg", "100-byte values, three nodes", "writers", "writes per second", fs.lines(allSystems, func(system string) (ps []point) {
		for _, n := range writerCounts {
			if f, ok := fs.get(name{writes(n, 100).String(), system, rate}); ok {
				ps = append(ps, point{float64(n), f.median()})
			}
		}
		return ps
	})}
}

func latencyOverThroughput(fs *figures) plot {
	return plot{"latency.svg", "100-byte values, three nodes, 1 to 1024 writers", "writes per second", "p50 in ms", fs.lines(allSystems, func(system string) (ps []point) {
		for _, n := range writerCounts {
			f, ok := fs.get(name{writes(n, 100).String(), system, rate})
			if half, both := fs.get(name{writes(n, 100).String(), system, p50}); ok && both {
				ps = append(ps, point{f.median(), 1e3 * half.median()})
			}
		}
		return ps
	})}
}

func costOverKeys(fs *figures) plot {
	p := plot{file: "keys.svg", title: "100-byte values, three nodes, 256 clients", x: "keys", y: "µs per operation"}
	for _, l := range costLoads {
		for _, system := range fs.lines(allSystems, func(system string) (ps []point) {
			for n := fewestKeys; n <= mostKeys; n *= 10 {
				if f, ok := fs.get(name{l.String() + overKeys(n), system, rate}); ok {
					ps = append(ps, point{float64(n), 1e6 / f.median()})
				}
			}
			return ps
		}) {
			p.lines = append(p.lines, line{fmt.Sprintf("%s: %s", system.name, l.kind()), system.points})
		}
	}
	return p
}

const (
	width, height            = 760, 440
	left, right, top, bottom = 80, 190, 40, 60
	axisStyle                = `stroke="#ccc"`
	textStyle                = `font-family="sans-serif" font-size="12"`
)

var colours = []string{"#d62728", "#1f77b4", "#17a2b8", "#2ca02c", "#98df8a", "#9467bd", "#8c564b", "#ff7f0e"}

// axis maps decades to pixels.
type axis struct {
	low, high float64 // powers of ten
	from, to  float64 // pixels
}

func newAxis(values []float64, from, to float64) axis {
	low, high := math.Floor(math.Log10(slices.Min(values))), math.Ceil(math.Log10(slices.Max(values)))
	return axis{low, max(high, low+1), from, to}
}

func (a axis) at(x float64) float64 {
	return a.from + (math.Log10(x)-a.low)/(a.high-a.low)*(a.to-a.from)
}

func (p plot) svg() string {
	var xs, ys []float64
	for _, l := range p.lines {
		for _, pt := range l.points {
			xs, ys = append(xs, pt.x), append(ys, pt.y)
		}
	}
	x, y := newAxis(xs, left, width-right), newAxis(ys, height-bottom, top)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" %s>`+"\n", width, height, textStyle)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="14">%s</text>`+"\n", left, p.title)
	for e := x.low; e <= x.high; e++ {
		at := x.at(math.Pow(10, e))
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" %s/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", at, at, top, height-bottom, axisStyle, at, height-bottom+18, decade(e))
	}
	for e := y.low; e <= y.high; e++ {
		at := y.at(math.Pow(10, e))
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" %s/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, width-right, at, at, axisStyle, left-6, at+4, decade(e))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-20, p.x)
	fmt.Fprintf(&b, `<text transform="translate(18 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+height-bottom)/2, p.y)
	for i, l := range p.lines {
		l.draw(&b, x, y, colours[i%len(colours)], top+20*i)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (l line) draw(b *strings.Builder, x, y axis, colour string, legend int) {
	var path strings.Builder
	for _, pt := range l.points {
		fmt.Fprintf(&path, "%.1f,%.1f ", x.at(pt.x), y.at(pt.y))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x.at(pt.x), y.at(pt.y), colour)
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", &path, colour)
	fmt.Fprintf(b, `<circle cx="%d" cy="%d" r="4" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", width-right+14, legend+6, colour, width-right+24, legend+10, l.name)
}

// decade is a power of ten as people write it.
func decade(exponent float64) string {
	switch n := math.Pow(10, exponent); {
	case n >= 1e6:
		return fmt.Sprintf("%gM", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%gk", n/1e3)
	default:
		return fmt.Sprintf("%g", n)
	}
}

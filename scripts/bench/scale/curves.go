// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/scripts/bench/figures"
)

// curve is a value as a function of the number of ports. The x axis is logarithmic; the y axis is too unless linear is set.
type curve struct {
	name, title string
	linear      bool
	lines       []line
}

type line struct {
	name, colour string
	points       []point
}

type point struct{ x, y float64 }

// curves returns the curves of the usual scene.
func (r Report) curves() []curve {
	of := func(name, title string, linear bool, value func(Result) float64) curve {
		c := curve{name: name, title: title, linear: linear}
		for i, contender := range contenders() {
			l := line{name: contender.String(), colour: colours[i]}
			for _, result := range r.Results {
				if y := value(result); result.Contender == contender && result.scenery == usual && !math.IsNaN(y) && (linear || y > 0) {
					l.points = append(l.points, point{float64(result.Ports), y})
				}
			}
			if len(l.points) > 0 {
				slices.SortFunc(l.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
				c.lines = append(c.lines, l)
			}
		}
		return c
	}
	return []curve{
		of("start", "start to last port answering, s", false, func(r Result) float64 {
			if r.capped("start") {
				return math.NaN()
			}
			return figures.Quantile(r.Starts, 0.5)
		}),
		of("change", "one endpoint change to the first connection, median, ms", false, func(r Result) float64 { return figures.Quantile(r.Changes, 0.5) }),
		of("change-processor", "processor time of one endpoint change, ms", false, func(r Result) float64 { return r.ChangeCPU }),
		of("memory", "memory of the program (RSS), MB", false, func(r Result) float64 {
			if r.Memory == nil {
				return math.NaN()
			}
			return r.Memory.RSS
		}),
		of("connections", "new connections, share of tracked routing, by processor time", true, func(r Result) float64 {
			if r.Connections == nil {
				return math.NaN()
			}
			return r.Connections.Processor.Summary().ToTracked.Median
		}),
	}
}

const (
	svgWidth, svgHeight = 760.0, 420.0
	plotLeft, plotTop   = 70.0, 40.0
	plotRight           = 560.0
	plotBottom          = 370.0
)

// colours are the line colours, in the order of the contenders.
var colours = []string{"#0b6", "#06c", "#0aa", "#999", "#555", "#e90", "#c30", "#93c"}

// axis maps values to coordinates.
type axis struct {
	low, high, from, to float64
	linear              bool
}

func (a axis) at(v float64) float64 {
	if a.linear {
		return a.from + (a.to-a.from)*(v-a.low)/(a.high-a.low)
	}
	return a.from + (a.to-a.from)*math.Log(v/a.low)/math.Log(a.high/a.low)
}

// marks returns the values with labels.
func (a axis) marks() []float64 {
	var marks []float64
	if a.linear {
		for i := range 6 {
			marks = append(marks, a.low+(a.high-a.low)*float64(i)/5)
		}
		return marks
	}
	for v := a.low; v <= a.high*1.001; v *= 10 {
		marks = append(marks, v)
	}
	return marks
}

// axes returns axes that span all points, extended to powers of ten.
func (c curve) axes() (x, y axis) {
	var xs, ys []float64
	for _, l := range c.lines {
		for _, p := range l.points {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	decades := func(values []float64) (low, high float64) {
		low = math.Pow(10, math.Floor(math.Log10(slices.Min(values))))
		return low, math.Max(low*10, math.Pow(10, math.Ceil(math.Log10(slices.Max(values)))))
	}
	x = axis{from: plotLeft, to: plotRight}
	x.low, x.high = decades(xs)
	y = axis{from: plotBottom, to: plotTop, linear: c.linear}
	if c.linear {
		y.low, y.high = 0, math.Max(1, math.Ceil(slices.Max(ys)*5)/5)
	} else {
		y.low, y.high = decades(ys)
	}
	return x, y
}

// svg renders the curve.
func (c curve) svg() string {
	var text strings.Builder
	fmt.Fprintf(&text, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" font-size=\"12\">\n", svgWidth, svgHeight)
	fmt.Fprintf(&text, "<rect width=\"%.0f\" height=\"%.0f\" fill=\"white\"/>\n<text x=\"%.0f\" y=\"22\" font-size=\"15\">%s</text>\n", svgWidth, svgHeight, plotLeft, html.EscapeString(c.title))
	if len(c.lines) > 0 {
		x, y := c.axes()
		c.grid(&text, x, y)
		for i, l := range c.lines {
			var points []string
			for _, p := range l.points {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x.at(p.x), y.at(p.y)))
				fmt.Fprintf(&text, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x.at(p.x), y.at(p.y), l.colour)
			}
			fmt.Fprintf(&text, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", strings.Join(points, " "), l.colour)
			fmt.Fprintf(&text, "<text x=\"%.0f\" y=\"%.0f\" fill=\"%s\">%s</text>\n", plotRight+15, plotTop+10+20*float64(i), l.colour, html.EscapeString(l.name))
		}
	}
	text.WriteString("</svg>\n")
	return text.String()
}

func (c curve) grid(text *strings.Builder, x, y axis) {
	for _, v := range x.marks() {
		fmt.Fprintf(text, "<line x1=\"%.1f\" y1=\"%.0f\" x2=\"%.1f\" y2=\"%.0f\" stroke=\"#ddd\"/>\n", x.at(v), plotTop, x.at(v), plotBottom)
		fmt.Fprintf(text, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%s</text>\n", x.at(v), plotBottom+18, figures.Number(v))
	}
	for _, v := range y.marks() {
		fmt.Fprintf(text, "<line x1=\"%.0f\" y1=\"%.1f\" x2=\"%.0f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", plotLeft, y.at(v), plotRight, y.at(v))
		fmt.Fprintf(text, "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", plotLeft-6, y.at(v)+4, label(v))
	}
	fmt.Fprintf(text, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">ports</text>\n", (plotLeft+plotRight)/2, plotBottom+38)
}

func label(v float64) string {
	if v >= 1 && v == math.Trunc(v) {
		return figures.Number(v)
	}
	return fmt.Sprintf("%g", math.Round(v*1000)/1000)
}

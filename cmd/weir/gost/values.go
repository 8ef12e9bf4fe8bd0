package gost

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weirproxy/weir/limit"
)

// The scopes that are no address.
const (
	service = "$"  // everything that one service passes
	each    = "$$" // of bandwidth each connection, of the others each address without a line of its own
)

// add takes over one limiter, line by line. A later line replaces an earlier one for the same, with
// one exception: of requests and connections, a line that sets no limit replaces nothing.
func (c *converter) add(l limiter) {
	own, open := map[slot]entry{}, map[slot]int{}
	for _, ln := range l.lines {
		fields := words(ln.text)
		if len(fields) < 2 {
			c.warnf(ln.at, "%q has a scope and no value: GOST passes it over", ln.text)
			continue
		}
		if a, err := netip.ParseAddr(fields[0]); err == nil && a.Unmap().String() != fields[0] {
			c.warnf(ln.at, "GOST compares addresses as text and writes this one %s, so it never applies %q: it is left out", a.Unmap(), fields[0])
			continue
		}
		p, err := l.kind.pattern(fields[0])
		if err != nil {
			c.warnf(ln.at, "%q is neither $, $$, an address nor a CIDR, so GOST never applies it: it is left out", fields[0])
			continue
		}
		for i, r := range l.kind.resources() {
			s := slot{p, r}
			before, stays := own[s]
			stays = stays && l.kind != bandwidth
			delete(own, s)
			if _, err := netip.ParsePrefix(p.String()); err == nil && l.kind == bandwidth {
				open[s] = ln.at // unless it gets a number
			}
			if i+1 >= len(fields) {
				continue // the rate of output may be missing
			}
			otherwise := without(p)
			if stays {
				otherwise = fmt.Sprintf("line %d applies", before.at)
			}
			switch v, means := c.value(s, fields[i+1], ln.at, otherwise); {
			case means == aLimit:
				own[s] = entry{value: v, at: ln.at}
				delete(open, s)
			case means == noLimit && stays:
				own[s] = before
			}
		}
		if extra := fields[1+min(len(l.kind.resources()), len(fields)-1):]; len(extra) > 0 {
			c.warnf(ln.at, "%q is passed over, as GOST does", strings.Join(extra, " "))
		}
	}
	for s, e := range own {
		c.take(s, e)
	}
	for s, at := range open {
		c.leaveOpen(s, at)
	}
}

// words splits a line as GOST does: at blanks and tabs, and nowhere else.
func words(text string) []string {
	return strings.FieldsFunc(strings.TrimSpace(text), func(r rune) bool { return r == ' ' || r == '\t' })
}

func (k kind) resources() []limit.Resource {
	switch k {
	case bandwidth:
		return []limit.Resource{limit.Upload, limit.Download} // what the service receives, what it sends
	case requests:
		return []limit.Resource{limit.Requests}
	}
	return []limit.Resource{limit.Connections}
}

// pattern is what a line's scope is here.
func (k kind) pattern(scope string) (limit.Pattern, error) {
	switch {
	case scope == service:
		return limit.ScopeTotal.ParsePattern("")
	case scope == each && k == bandwidth:
		return limit.ScopeConnection.ParsePattern("")
	case scope == each:
		return limit.ScopeClient.ParsePattern("*")
	}
	if a, err := netip.ParseAddr(scope); err == nil {
		return limit.ScopeClient.ParsePattern(a.WithZone("").String())
	}
	p, err := netip.ParsePrefix(scope)
	if err != nil {
		return limit.Pattern{}, err
	}
	return limit.ScopeClient.ParsePattern(p.String())
}

// value is one number of a limit, of its resource.
type value struct {
	n    int64 // connections, or bytes a second
	rate limit.Rate
}

// meaning is what a number is to GOST, and here.
type meaning int

const (
	noLimit meaning = iota // it sets none in GOST
	tooMuch                // it is a limit in GOST, and none is possible here
	aLimit
)

// without says what counts where a line's value is left out: GOST then goes on to the wider lines
// that hold an address.
func without(p limit.Pattern) string {
	if p.Scope() == limit.ScopeClient && p.String() != "*" {
		return "wider lines apply, if there are any"
	}
	return "there will be no cap"
}

// value reads a number as GOST does. otherwise says what counts where it sets no limit.
func (c *converter) value(s slot, text string, at int, otherwise string) (v value, means meaning) {
	var err error
	var positive bool
	switch s.resource {
	case limit.Requests:
		var f float64
		f, err = strconv.ParseFloat(text, 64)
		positive = f > 0 || math.IsNaN(f)
		if positive { // also where the number is too large for a float, which is an error
			if v.rate, err = c.rate(s.pattern, f, text, at); err != nil {
				return v, tooMuch // which has warned
			}
		}
	case limit.Connections:
		var n int
		n, err = strconv.Atoi(text)
		v.n, positive = int64(n), n > 0
		if v.n > limit.MaxConnections {
			c.warnf(at, "%s connections are more than the %d that can be a limit here: %s", text, limit.MaxConnections, without(s.pattern))
			return v, tooMuch
		}
	default:
		v.n, err = parseBytes(text)
		positive = v.n > 0
		if v.n > limit.MaxBandwidth {
			c.warnf(at, "%s a second is more than the %s that can be a limit here: %s", text, limit.FormatBytes(limit.MaxBandwidth), without(s.pattern))
			return v, tooMuch
		}
	}
	switch {
	case err != nil:
		c.warnf(at, "%q does not parse, which GOST takes for no limit: write what you mean (%s); %s", text, examples[s.resource], otherwise)
		return v, noLimit
	case !positive:
		return v, noLimit // 0 and less
	}
	return v, aLimit
}

var examples = map[limit.Resource]string{
	limit.Requests: "requests a second, as in 10 or 0.5", limit.Connections: "a whole number, as in 100",
	limit.Upload: "bytes a second, as in 512KB or 10MB", limit.Download: "bytes a second, as in 512KB or 10MB",
}

// rate is a number of requests a second, in the smallest unit of time that says it exactly.
func (c *converter) rate(p limit.Pattern, f float64, text string, at int) (limit.Rate, error) {
	if math.IsNaN(f) || f > float64(limit.MaxRequests) {
		c.warnf(at, "%s requests a second are more than the %d that can be a limit here: %s", text, limit.MaxRequests, without(p))
		return limit.Rate{}, limit.ErrInvalid
	}
	burst := int64(f) + 1 // as GOST has it
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour} {
		thousandths := f * per.Seconds() * 1000
		if whole := math.Round(thousandths); whole >= 1 && math.Abs(whole-thousandths) < 1e-6*thousandths {
			return limit.Rate{Thousandths: int64(whole), Per: per, Burst: min(burst, limit.MaxRequests)}, nil
		}
	}
	r := limit.Rate{Thousandths: max(1, int64(f*time.Hour.Seconds()*1000)), Per: time.Hour, Burst: burst}
	c.warnf(at, "%s requests a second are written as %s", text, r)
	return r, nil
}

// byteUnits are GOST's, all of them powers of two: with the i or without it they mean the same, but
// one value can't have both.
var byteUnits = map[string]int64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}

// parseBytes reads a number of bytes as GOST does: one or several of a number and a unit, as in
// "1MB512KB". The units' case counts.
func parseBytes(text string) (int64, error) {
	rest := strings.TrimPrefix(text, "+")
	negative := strings.HasPrefix(rest, "-")
	rest = strings.TrimPrefix(rest, "-")
	if rest == "0" {
		return 0, nil
	}
	var sum float64
	suffix := ""
	for rest != "" {
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no number", number)
		}
		rest = rest[len(number):]
		unit := rest
		if i := strings.IndexAny(rest, "0123456789."); i >= 0 {
			unit = rest[:i]
		}
		rest = rest[len(unit):]
		prefix, binary := strings.CutSuffix(unit, "iB")
		if !binary {
			prefix, _ = strings.CutSuffix(unit, "B")
		}
		scale, known := byteUnits[prefix]
		if !known || prefix+"B" != unit && prefix+"iB" != unit || prefix == "" && binary {
			return 0, fmt.Errorf("%q is no unit", unit)
		}
		if s := unit[len(prefix):]; prefix != "" {
			if suffix != "" && suffix != s {
				return 0, fmt.Errorf("%q mixes units", text)
			}
			suffix = s
		}
		sum += n * float64(scale)
	}
	switch {
	case text == "" || sum == 0 && !strings.ContainsAny(text, "0123456789"):
		return 0, fmt.Errorf("%q is no number of bytes", text)
	case negative:
		return -1, nil
	case sum > math.MaxInt64/2:
		return math.MaxInt64, nil
	}
	return int64(sum), nil
}

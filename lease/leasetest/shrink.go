package leasetest

import (
	"slices"
	"time"
)

// Shrink looks for a smaller plan that fails too: with fewer faults, fewer workers, fewer nodes,
// shorter faults and less time. It runs at most tries plans. With a rule broken, the plan is one
// that fails for that alone, in a way that the rule is there to prevent. It need not fail with the
// same words: the smallest failure is the best to read.
func Shrink(p *Plan, broken Rule, tries int) *Plan {
	s := &shrinker{best: p.clone(), broken: broken, tries: tries}
	for {
		before := s.best.String()
		s.without(func(q *Plan) int { return len(q.Faults) }, func(q *Plan, from, to int) { q.Faults = slices.Delete(q.Faults, from, to) })
		s.without(func(q *Plan) int { return len(q.Workers) }, func(q *Plan, from, to int) { q.Workers = slices.Delete(q.Workers, from, to) })
		s.without(func(q *Plan) int { return len(q.Flows) }, func(q *Plan, from, to int) { q.Flows = slices.Delete(q.Flows, from, to) })
		s.without(func(q *Plan) int { return len(q.Writes) }, func(q *Plan, from, to int) { q.Writes = slices.Delete(q.Writes, from, to) })
		s.without(func(q *Plan) int { return len(q.Limits) }, func(q *Plan, from, to int) { q.Limits = slices.Delete(q.Limits, from, to) })
		s.fewerNodes()
		s.shorter()
		s.plainer()
		if s.best.String() == before || s.tries <= 0 {
			return s.best
		}
	}
}

type shrinker struct {
	best   *Plan
	broken Rule
	tries  int
}

func (p *Plan) clone() *Plan {
	q := *p
	q.Drift, q.Limits = slices.Clone(p.Drift), slices.Clone(p.Limits)
	q.Workers, q.Flows, q.Faults = slices.Clone(p.Workers), slices.Clone(p.Flows), slices.Clone(p.Faults)
	q.Writes = slices.Clone(p.Writes)
	return &q
}

// try keeps a changed plan that is possible and still fails.
func (s *shrinker) try(change func(*Plan)) bool {
	if s.tries <= 0 {
		return false
	}
	q := s.best.clone()
	change(q)
	if q.Validate() != nil || q.String() == s.best.String() {
		return false
	}
	s.tries--
	if !s.broken.Finds(Run(q, s.broken).Kind) || s.broken != 0 && Run(q, 0).Breach != "" {
		return false
	}
	s.best = q
	return true
}

// without leaves out parts of a list: halves of it, then quarters, down to single items (Zeller and
// Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002).
func (s *shrinker) without(length func(*Plan) int, remove func(q *Plan, from, to int)) {
	for size := max(1, length(s.best)/2); size >= 1; size /= 2 {
		for from := 0; from < length(s.best); {
			to := min(from+size, length(s.best))
			if !s.try(func(q *Plan) { remove(q, from, to) }) {
				from = to
			}
		}
	}
}

// fewerNodes leaves the last nodes out, with their workers and what strikes them.
func (s *shrinker) fewerNodes() {
	for s.try(func(q *Plan) {
		q.Nodes--
		for q.Servers > q.Nodes {
			q.Servers -= 2
		}
		q.Drift = q.Drift[:min(len(q.Drift), q.Nodes)]
		q.Workers = slices.DeleteFunc(q.Workers, func(k Worker) bool { return k.Node >= q.Nodes })
		q.Flows = slices.DeleteFunc(q.Flows, func(f Flow) bool { return f.Node >= q.Nodes })
		q.Faults = slices.DeleteFunc(q.Faults, func(f Fault) bool { return f.Node >= q.Nodes })
	}) {
		continue
	}
}

func (s *shrinker) shorter() {
	for s.try(func(q *Plan) { q.Length = Duration(q.Length.D() * 3 / 4) }) {
		continue
	}
	for i := range s.best.Faults {
		for s.try(func(q *Plan) { q.Faults[i].For /= 2 }) {
			continue
		}
		for s.try(func(q *Plan) { q.Faults[i].Late /= 2 }) {
			continue
		}
		s.try(func(q *Plan) { round(&q.Faults[i].At); round(&q.Faults[i].For); round(&q.Faults[i].Late) })
	}
}

// plainer leaves out what a reader would have to think about.
func (s *shrinker) plainer() {
	s.try(func(q *Plan) { q.Drift = nil })
	s.try(func(q *Plan) { q.Codec = false })
	for i := range s.best.Limits {
		s.try(func(q *Plan) { q.Limits[i].Timeout, q.Limits[i].Size = 0, 0 })
		s.try(func(q *Plan) { q.Limits[i].Shared = false })
		s.try(func(q *Plan) { q.Limits[i].Upload = 0 })
		s.try(func(q *Plan) { q.Limits[i].Download = 0 })
	}
	for i := range s.best.Flows {
		s.try(func(q *Plan) { q.Flows[i].Ways = "up" })
		s.try(func(q *Plan) { q.Flows[i].Ways = "" })
	}
	for i := range s.best.Workers {
		s.try(func(q *Plan) { q.Workers[i].Keep, q.Workers[i].Leave, q.Workers[i].Half = 0, 0, 0 })
		s.try(func(q *Plan) { round(&q.Workers[i].Hold); round(&q.Workers[i].Pause) })
	}
}

// round leaves two digits or so.
func round(d *Duration) {
	unit := time.Microsecond
	for d.D() > 100*unit {
		unit *= 10
	}
	*d = Duration(d.D().Round(unit))
}

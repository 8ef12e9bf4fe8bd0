// Package linear judges a history of limit writes and reads, made by many clients through many
// nodes.
//
// Writes are promised to be linearisable, conditional ones too: each takes effect at one moment
// between its call and its answer, in the order of their log indexes. [Writes] checks that with
// porcupine. A write whose outcome nobody knows (no answer, or one that says so) may take effect at
// any later moment, or never.
//
// Reads are promised less: what a node shows is the state at some index of the log, which never
// goes back while its process lives, and which includes every write that was acknowledged through
// that node. [Views] checks that.
//
// Every value is written once, so that it tells which write it comes from; a value that appears at
// two log indexes was written twice.
package linear

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Absent is the value of a pattern without a limit.
const Absent = 0

// Kind says what a write is to do.
type Kind uint8

// The kinds of write.
const (
	Put     Kind = iota + 1 // set the value
	Create                  // set it if the pattern is absent
	Swap                    // set it if it is Seen
	Delete                  // make the pattern absent; NotFound if it is
	Discard                 // make it absent if it is Seen
)

// Outcome is a write's answer.
type Outcome uint8

// The outcomes. A write that surely had no effect is not part of a history.
const (
	Unknown  Outcome = iota // it may take effect at any later time, or never
	OK                      // it took effect, at Index
	Refused                 // its condition did not hold
	NotFound                // there was nothing to delete
)

// Write is one write and what became of it. Times are since the history began.
type Write struct {
	Client       int
	Node         string
	Life         int // of the node's process: a restart begins the next
	Pattern      string
	Kind         Kind
	Value        int64 // Absent for Delete and Discard
	Seen         int64 // what Swap and Discard expect
	Outcome      Outcome
	Index        uint64 // of an OK: its log index
	Visible      uint64 // of an OK: the index of the limits that show it; lower where it had been written by a first attempt
	Call, Return time.Duration
}

// forever is when an unknown outcome is over.
const forever = time.Duration(math.MaxInt64)

// state is a pattern's: what a write finds.
type state struct {
	value int64
	index uint64 // of the last write whose index is known
}

func (w *Write) step(s state) (state, bool) {
	holds := true
	switch w.Kind {
	case Create:
		holds = s.value == Absent
	case Swap, Discard:
		holds = s.value == w.Seen
	case Delete:
		holds = s.value != Absent
	}
	switch w.Outcome {
	case Refused, NotFound:
		return s, !holds
	case OK:
		if !holds || w.Index <= s.index {
			return s, false
		}
		return state{w.Value, w.Index}, true
	}
	if holds {
		s.value = w.Value
	}
	return s, true
}

// String is for the picture of a history.
func (w *Write) String() string {
	name := [...]string{Put: "put", Create: "create", Swap: "swap", Delete: "delete", Discard: "discard"}[w.Kind]
	outcome := [...]string{Unknown: "?", OK: fmt.Sprintf("ok at %d", w.Index), Refused: "refused", NotFound: "not found"}[w.Outcome]
	return fmt.Sprintf("%s %d (seen %d) via %s: %s", name, w.Value, w.Seen, w.Node, outcome)
}

// Writes checks that the writes are linearisable. On a breach it draws those of the pattern into
// the file at picture, an HTML page. The check gives up, which is an error too, after patience.
func Writes(history []*Write, picture string, patience time.Duration) error {
	model := model()
	operations := make([]porcupine.Operation, len(history))
	for i, w := range history {
		operations[i] = porcupine.Operation{ClientId: w.Client, Input: w, Output: w, Call: int64(w.Call), Return: int64(w.Return)}
		if w.Outcome == Unknown {
			operations[i].Return = int64(forever)
		}
	}
	for _, of := range model.Partition(operations) {
		result, info := porcupine.CheckOperationsVerbose(model, of, patience)
		if result == porcupine.Ok {
			continue
		}
		pattern := of[0].Input.(*Write).Pattern
		if err := porcupine.VisualizePath(model, info, picture); err != nil {
			return fmt.Errorf("the writes of %s: %s; no picture: %w", pattern, result, err)
		}
		return fmt.Errorf("the writes of %s are not linearisable (%s): see %s", pattern, result, picture)
	}
	return nil
}

func model() porcupine.Model {
	return porcupine.Model{
		Partition: byPattern,
		Init:      func() any { return state{} },
		Step: func(s, input, _ any) (bool, any) {
			next, ok := input.(*Write).step(s.(state))
			return ok, next
		},
		DescribeOperation: func(input, _ any) string { return input.(*Write).String() },
		DescribeState:     func(s any) string { return fmt.Sprintf("%d, after index %d", s.(state).value, s.(state).index) },
	}
}

// byPattern splits a history: a pattern's writes have nothing to do with another's.
func byPattern(history []porcupine.Operation) [][]porcupine.Operation {
	of := map[string][]porcupine.Operation{}
	var names []string
	for _, op := range history {
		name := op.Input.(*Write).Pattern
		if of[name] == nil {
			names = append(names, name)
		}
		of[name] = append(of[name], op)
	}
	slices.Sort(names)
	parts := make([][]porcupine.Operation, len(names))
	for i, name := range names {
		parts[i] = of[name]
	}
	return parts
}

package proxy

import (
	"encoding/json"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// lineDelay is how long a line may wait for others, to be written with them.
	lineDelay = 5 * time.Millisecond
	// maxPendingLines bounds the bytes of lines that are not written yet; what goes beyond is
	// dropped and counted.
	maxPendingLines = 4 << 20
	// maxLineBatch is about the most bytes that one write gets.
	maxLineBatch = 64 << 10
	// maxPooledLine is the largest line whose memory is kept for another.
	maxPooledLine = 1 << 10
	// lineGrace is how long closing waits for an output that takes nothing.
	lineGrace = time.Second
)

// LineOutput says where the lines go.
type LineOutput struct {
	// Writer gets whole lines, many in one call; it must be safe for use beside the logger, which
	// may write to the same. Nil: no lines are written.
	Writer io.Writer
	// JSON is hclog's JSON format, else it is its text.
	JSON bool
	// Always writes them whatever the logger's level; else they are of level info.
	Always bool
}

// lines writes the one line that a finished tunnel or request leaves: what hclog would write for
// the same message and fields, without reflection, a lock, or a system call for each. The goroutine
// that ends the request appends its line to a list; one writer takes the list every lineDelay.
// Where that can't keep up, lines are dropped, and the log says how many.
type lines struct {
	to   atomic.Pointer[LineOutput]
	log  hclog.Logger // says whether lines are wanted, and is told of those that were dropped
	name string
	pool sync.Pool // of *line

	newest  atomic.Pointer[line] // of those to be written; each leads to the one before
	pending atomic.Int64         // their bytes, and those of the ones being written
	dropped atomic.Int64
	second  atomic.Pointer[second]

	wake, stop, done chan struct{}
	closing          sync.Once
	batch            []byte // the writer's
}

// line is one line. Fields are appended in the order of the calls.
type line struct {
	buf  []byte
	json bool
	next *line
}

// newLines starts the writer; close ends it.
func newLines(to LineOutput, log hclog.Logger) *lines {
	ls := &lines{
		log: log, name: log.Name(),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	ls.to.Store(&to)
	go ls.run()
	return ls
}

// SetLines changes where the lines of finished tunnels and requests go. Those that are not written
// yet may go to either.
func (s *Server) SetLines(to LineOutput) { s.lines.to.Store(&to) }

// wanted reports whether a line would be written.
func (ls *lines) wanted() bool {
	to := ls.to.Load()
	return to.Writer != nil && (to.Always || ls.log.IsInfo())
}

// begin starts a line of level info, which end takes.
func (ls *lines) begin(now time.Time, message string) *line {
	l, ok := ls.pool.Get().(*line)
	if !ok {
		l = &line{buf: make([]byte, 0, 384)}
	}
	b := l.buf[:0]
	if l.json = ls.to.Load().JSON; l.json {
		b = append(b, `{"@level":"info","@message":"`...)
		b = append(b, message...)
		b = append(b, `","@module":`...)
		b = appendJSON(b, ls.name)
		b = append(b, `,"@timestamp":"`...)
		b = append(ls.appendTime(b, now, true), '"')
	} else {
		b = ls.appendTime(b, now, false)
		b = append(b, " [INFO]  "...)
		b = append(b, ls.name...)
		b = append(b, ": "...)
		b = append(b, message...)
		b = append(b, ':')
	}
	l.buf = b
	return l
}

// end hands the line to the writer.
func (ls *lines) end(l *line) {
	if l.json {
		l.buf = append(l.buf, '}')
	}
	l.buf = append(l.buf, '\n')
	n := int64(len(l.buf))
	if ls.pending.Add(n) > maxPendingLines {
		ls.pending.Add(-n)
		ls.dropped.Add(1)
		ls.recycle(l)
		return
	}
	for {
		l.next = ls.newest.Load()
		first := l.next == nil // after the swap l may be another's
		if !ls.newest.CompareAndSwap(l.next, l) {
			continue
		}
		if first {
			select {
			case ls.wake <- struct{}{}:
			default:
			}
		}
		return
	}
}

func (ls *lines) recycle(l *line) {
	if l.next = nil; cap(l.buf) <= maxPooledLine {
		ls.pool.Put(l)
	}
}

// run writes until close, and then what is left.
func (ls *lines) run() {
	defer close(ls.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ls.wake:
		case <-ls.stop:
			ls.flush()
			return
		}
		timer.Reset(lineDelay)
		select {
		case <-timer.C:
		case <-ls.stop:
		}
		ls.flush()
	}
}

// flush writes what is in the list, oldest first.
func (ls *lines) flush() {
	var oldest *line
	for l := ls.newest.Swap(nil); l != nil; {
		before := l.next
		l.next, oldest = oldest, l
		l = before
	}
	for l := oldest; l != nil; {
		next := l.next
		ls.batch = append(ls.batch, l.buf...)
		ls.recycle(l)
		if l = next; l == nil || len(ls.batch) >= maxLineBatch {
			ls.write()
		}
	}
	if n := ls.dropped.Swap(0); n > 0 {
		ls.log.Warn("the log's output is too slow: lines of finished tunnels and requests were dropped", "lines", n)
	}
}

func (ls *lines) write() {
	if to := ls.to.Load().Writer; to != nil { // it may have been switched off meanwhile
		// An output that can fail says so itself: here is nowhere to, as for the logger.
		_, _ = to.Write(ls.batch)
	}
	ls.pending.Add(-int64(len(ls.batch)))
	if ls.batch = ls.batch[:0]; cap(ls.batch) > 2*maxLineBatch {
		ls.batch = nil
	}
}

// close writes what is left and stops the writer. Nobody may begin a line any more.
func (ls *lines) close() {
	ls.closing.Do(func() { close(ls.stop) })
	timer := time.NewTimer(lineGrace)
	defer timer.Stop()
	select {
	case <-ls.done:
	case <-timer.C: // the output is stuck, and the process must not be
	}
}

// second is how a second is written.
type second struct {
	unix       int64
	json       bool
	time, zone string // before and behind the fraction
}

// appendTime appends the time as hclog does, in ms or, in JSON, in µs: a second's text is made
// once.
func (ls *lines) appendTime(dst []byte, t time.Time, json bool) []byte {
	s := ls.second.Load()
	if s == nil || s.unix != t.Unix() || s.json != json {
		s = &second{t.Unix(), json, t.Format("2006-01-02T15:04:05."), t.Format("Z0700")}
		if json {
			s.zone = t.Format("Z07:00")
		}
		ls.second.Store(s)
	}
	dst = append(dst, s.time...)
	fraction, digit := t.Nanosecond()/1e6, 100
	if json {
		fraction, digit = t.Nanosecond()/1e3, 100_000
	}
	for ; digit > 0; digit /= 10 {
		dst = append(dst, byte('0'+fraction/digit%10))
	}
	return append(dst, s.zone...)
}

func (l *line) key(key string) {
	if l.json {
		l.buf = append(l.buf, `,"`...)
		l.buf = append(l.buf, key...)
		l.buf = append(l.buf, `":`...)
		return
	}
	l.buf = append(l.buf, ' ')
	l.buf = append(l.buf, key...)
	l.buf = append(l.buf, '=')
}

func (l *line) text(key, value string) {
	l.key(key)
	if l.json {
		l.buf = appendJSON(l.buf, value)
		return
	}
	l.buf = appendText(l.buf, value)
}

func (l *line) number(key string, value uint64) {
	l.key(key)
	l.buf = strconv.AppendUint(l.buf, value, 10)
}

func (l *line) flag(key string, value bool) {
	l.key(key)
	l.buf = strconv.AppendBool(l.buf, value)
}

func (l *line) addr(key string, value netip.AddrPort) {
	l.key(key)
	if l.json {
		l.buf = append(value.AppendTo(append(l.buf, '"')), '"')
		return
	}
	if value.Addr().Zone() != "" { // a percent sign
		l.buf = append(value.AppendTo(append(l.buf, '"')), '"')
		return
	}
	l.buf = value.AppendTo(l.buf)
}

func (l *line) duration(key string, value time.Duration) {
	l.key(key)
	micros := value.Abs() < time.Millisecond && value.Abs() >= time.Microsecond // "µs" is not ASCII
	if l.json || micros {
		l.buf = append(l.buf, '"')
		l.buf = append(l.buf, value.String()...)
		l.buf = append(l.buf, '"')
		return
	}
	l.buf = append(l.buf, value.String()...)
}

// appendText appends a value as hclog's text has it: in quotes where it is more than one plain
// word.
func appendText(dst []byte, s string) []byte {
	plain := s != ""
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~' || c == '"':
			return strconv.AppendQuote(dst, s)
		case c < '-':
			plain = false
		}
	}
	if plain {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendJSON appends a JSON string.
func appendJSON(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string can always be marshalled
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

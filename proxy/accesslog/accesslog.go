package accesslog

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
	// lineDelay is how long a line may wait, to be written together with others.
	lineDelay = 5 * time.Millisecond
	// maxPendingLines bounds the bytes of unwritten lines. Further lines are dropped and counted.
	maxPendingLines = 4 << 20
	// maxLineBatch is roughly the largest write.
	maxLineBatch = 64 << 10
	// maxPooledLine is the largest buffer that is reused for another line.
	maxPooledLine = 1 << 10
	// lineGrace is how long Close waits for an output that is stuck.
	lineGrace = time.Second
)

// Output says where and how log lines are written.
type Output struct {
	// Writer gets whole lines, many in one call. It must be safe for use beside the logger, which
	// may write to it too. nil turns the lines off.
	Writer io.Writer
	// JSON selects hclog's JSON format instead of its text format.
	JSON bool
	// Always writes the lines whatever the logger's level. Otherwise they have level info.
	Always bool
}

// Log writes lines: the bytes that hclog would write for
// the same message and fields, but without reflection, a lock, or a system call for each. The
// goroutine that ends the request appends its line to a list, and one writer takes the list every
// lineDelay. If the writer can't keep up, lines are dropped, and the log reports how many.
type Log struct {
	to   atomic.Pointer[Output]
	log  hclog.Logger // its level decides; it reports dropped lines
	name string
	pool sync.Pool // of *line

	newest  atomic.Pointer[Line] // the newest unwritten line; each points to the one before
	pending atomic.Int64         // bytes in the list or being written
	dropped atomic.Int64
	second  atomic.Pointer[second]

	wake, stop, done chan struct{}
	closing          sync.Once
	batch            []byte // the writer's
}

// Line is one log line. Its fields are in the order of the calls.
type Line struct {
	buf  []byte
	json bool
	next *Line
}

// New starts the writer; Close ends it. log's level decides, and log reports dropped lines.
func New(to Output, log hclog.Logger) *Log {
	ls := &Log{
		log: log, name: log.Name(),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	ls.to.Store(&to)
	go ls.run()
	return ls
}

// SetOutput changes the output. Unwritten lines may go to the old or to the new one.
func (ls *Log) SetOutput(to Output) { ls.to.Store(&to) }

// Wanted reports whether a line would be written.
func (ls *Log) Wanted() bool {
	to := ls.to.Load()
	return to.Writer != nil && (to.Always || ls.log.IsInfo())
}

// Begin starts a line of level info; End takes it.
func (ls *Log) Begin(now time.Time, message string) *Line {
	l, ok := ls.pool.Get().(*Line)
	if !ok {
		l = &Line{buf: make([]byte, 0, 384)}
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

// End passes the line to the writer.
func (ls *Log) End(l *Line) {
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
		first := l.next == nil // read before the swap: afterwards l belongs to the writer
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

func (ls *Log) recycle(l *Line) {
	if l.next = nil; cap(l.buf) <= maxPooledLine {
		ls.pool.Put(l)
	}
}

// run writes lines until Close, and then the remaining ones.
func (ls *Log) run() {
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

// flush writes the lines in the list, oldest first.
func (ls *Log) flush() {
	var oldest *Line
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

func (ls *Log) write() {
	if to := ls.to.Load().Writer; to != nil { // nil: turned off meanwhile
		// There is nowhere to report a failure of the log's own output.
		_, _ = to.Write(ls.batch)
	}
	ls.pending.Add(-int64(len(ls.batch)))
	if ls.batch = ls.batch[:0]; cap(ls.batch) > 2*maxLineBatch {
		ls.batch = nil
	}
}

// Close writes the remaining lines and stops the writer. No line may be begun afterwards.
func (ls *Log) Close() {
	ls.closing.Do(func() { close(ls.stop) })
	timer := time.NewTimer(lineGrace)
	defer timer.Stop()
	select {
	case <-ls.done:
	case <-timer.C: // a stuck output must not hold the process up
	}
}

// second caches the text of one second.
type second struct {
	unix       int64
	json       bool
	time, zone string // the text before and after the fraction
}

// appendTime appends the time as hclog does, in ms, or in µs for JSON. The text of a second is made
// once.
func (ls *Log) appendTime(dst []byte, t time.Time, json bool) []byte {
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

func (l *Line) key(key string) {
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

// Text adds a string.
func (l *Line) Text(key, value string) {
	l.key(key)
	if l.json {
		l.buf = appendJSON(l.buf, value)
		return
	}
	l.buf = appendText(l.buf, value)
}

// Number adds a number.
func (l *Line) Number(key string, value uint64) {
	l.key(key)
	l.buf = strconv.AppendUint(l.buf, value, 10)
}

// Flag adds true or false.
func (l *Line) Flag(key string, value bool) {
	l.key(key)
	l.buf = strconv.AppendBool(l.buf, value)
}

// Addr adds an address.
func (l *Line) Addr(key string, value netip.AddrPort) {
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

// Duration adds a time.
func (l *Line) Duration(key string, value time.Duration) {
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

// appendText appends a value as hclog's text format does: in quotes unless it is one plain word.
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
			quoted, _ := json.Marshal(s) // marshalling a string never fails
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

package weir

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// levelTrace is slog's level for hclog's trace, below debug.
const levelTrace = slog.LevelDebug - 4

// slogger is a [slog.Logger] as the node's packages, and raft and memberlist, take a logger. The
// handler alone decides about levels.
type slogger struct {
	to   *slog.Logger // with implied
	root *slog.Logger
	name string
	// implied are the pairs that With has added.
	implied []any
}

func newSlogger(to *slog.Logger) *slogger {
	return (&slogger{root: to}).named("weir")
}

// named returns the logger with another name.
func (s *slogger) named(name string) *slogger {
	to := s.root.With("logger", name).With(attributes(s.implied)...)
	return &slogger{to: to, root: s.root, name: name, implied: s.implied}
}

// emit writes a record as if the caller of the hclog method had.
func (s *slogger) emit(level slog.Level, msg string, args []any) {
	ctx := context.Background()
	if !s.to.Enabled(ctx, level) {
		return
	}
	var caller [1]uintptr
	runtime.Callers(3, caller[:]) // Callers, emit, the method
	r := slog.NewRecord(time.Now(), level, msg, caller[0])
	r.Add(attributes(args)...)
	_ = s.to.Handler().Handle(ctx, r) // nobody could be told
}

// attributes are hclog's pairs as slog's.
func attributes(args []any) []any {
	out := make([]any, 0, (len(args)+1)/2)
	for pair := range slices.Chunk(args, 2) {
		if len(pair) == 1 {
			pair = []any{"extra", pair[0]} // hclog's callers may leave out a key
		}
		value := pair[1]
		if f, ok := value.(hclog.Format); ok && len(f) > 0 {
			value = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		out = append(out, slog.Any(fmt.Sprint(pair[0]), value))
	}
	return out
}

// slogLevel is an hclog level as slog has it.
func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return levelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelInfo
}

func (s *slogger) Log(l hclog.Level, msg string, args ...any) {
	if l != hclog.Off {
		s.emit(slogLevel(l), msg, args)
	}
}

func (s *slogger) Trace(msg string, args ...any) { s.emit(levelTrace, msg, args) }
func (s *slogger) Debug(msg string, args ...any) { s.emit(slog.LevelDebug, msg, args) }
func (s *slogger) Info(msg string, args ...any)  { s.emit(slog.LevelInfo, msg, args) }
func (s *slogger) Warn(msg string, args ...any)  { s.emit(slog.LevelWarn, msg, args) }
func (s *slogger) Error(msg string, args ...any) { s.emit(slog.LevelError, msg, args) }

func (s *slogger) enabled(l slog.Level) bool { return s.to.Enabled(context.Background(), l) }

func (s *slogger) IsTrace() bool { return s.enabled(levelTrace) }
func (s *slogger) IsDebug() bool { return s.enabled(slog.LevelDebug) }
func (s *slogger) IsInfo() bool  { return s.enabled(slog.LevelInfo) }
func (s *slogger) IsWarn() bool  { return s.enabled(slog.LevelWarn) }
func (s *slogger) IsError() bool { return s.enabled(slog.LevelError) }

func (s *slogger) ImpliedArgs() []any { return s.implied }

func (s *slogger) With(args ...any) hclog.Logger {
	return (&slogger{root: s.root, implied: slices.Concat(s.implied, args)}).named(s.name)
}

func (s *slogger) Name() string { return s.name }

func (s *slogger) Named(name string) hclog.Logger { return s.named(s.name + "." + name) }

func (s *slogger) ResetNamed(name string) hclog.Logger { return s.named(name) }

// SetLevel does nothing: the handler decides.
func (s *slogger) SetLevel(hclog.Level) {}

func (s *slogger) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if s.enabled(slogLevel(l)) {
			return l
		}
	}
	return hclog.Off
}

func (s *slogger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(s.StandardWriter(opts), "", 0)
}

func (s *slogger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	w := standardWriter{to: s, level: hclog.Info}
	if opts != nil {
		w.infer = opts.InferLevels || opts.InferLevelsWithTimestamp
		if opts.ForceLevel != hclog.NoLevel {
			w.level, w.infer = opts.ForceLevel, false
		}
	}
	return w
}

// standardWriter takes the lines of a [log.Logger].
type standardWriter struct {
	to    *slogger
	level hclog.Level
	infer bool // from a line's beginning, as in "[WARN] memberlist: …"
}

// Write implements [io.Writer]; it never fails.
func (w standardWriter) Write(b []byte) (int, error) {
	line, level := strings.TrimRight(string(b), " \t\r\n"), w.level
	if w.infer {
		for l := hclog.Trace; l <= hclog.Error; l++ {
			prefix := "[" + strings.ToUpper(l.String()) + "]"
			if _, rest, found := strings.Cut(line, prefix); found {
				line, level = strings.TrimSpace(rest), l
				break
			}
		}
	}
	w.to.emit(slogLevel(level), line, nil)
	return len(b), nil
}

// slogLines takes the lines of finished tunnels and requests, in hclog's JSON format, and makes a
// record with attributes of each: they come late, and the proxy writes them without an allocation.
type slogLines struct{ to *slog.Logger }

// Write implements [io.Writer]; it never fails.
func (l slogLines) Write(b []byte) (int, error) {
	ctx := context.Background()
	if l.to.Enabled(ctx, slog.LevelInfo) {
		for line := range bytes.Lines(b) {
			_ = l.to.Handler().Handle(ctx, lineRecord(line)) // nobody could be told
		}
	}
	return len(b), nil
}

// lineRecord is a line as slog's record. What can't be read as JSON is a message.
func lineRecord(line []byte) slog.Record {
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "", 0)
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil { // the opening brace
		r.Message = strings.TrimRight(string(line), "\r\n")
		return r
	}
	for d.More() {
		key, _ := d.Token()
		var value any
		if d.Decode(&value) != nil {
			break
		}
		switch text, _ := value.(string); key {
		case "@message":
			r.Message = text
		case "@module":
			r.AddAttrs(slog.String("logger", text))
		case "@timestamp":
			if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
				r.Time = at
			}
		case "@level":
		default:
			if number, ok := value.(float64); ok {
				value = int64(number) // a count, a port or a status
			}
			r.AddAttrs(slog.Any(fmt.Sprint(key), value))
		}
	}
	return r
}

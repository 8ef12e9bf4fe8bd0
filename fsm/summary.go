package fsm

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
)

// ErrDamaged is wrapped by errors about a saved snapshot that is torn or altered, or is none.
var ErrDamaged = errors.New("the snapshot is damaged, or is none: save it anew, or take another")

// ErrTooMany is wrapped by errors about a saved snapshot with more limits or sessions than a
// cluster can have.
var ErrTooMany = errors.New("the snapshot holds more than a cluster can")

const (
	// maxSummarised bounds the limits, and the sessions, of which a summary is held in memory.
	maxSummarised = 1_000_000
	// maxSummaryField bounds what is held of one field: a limit, a grant or a name, none of which
	// comes near it.
	maxSummaryField = 64 << 10
)

// Summary is what a snapshot tells, but for who holds how many slots of what.
type Summary struct {
	Version   int
	Bytes     int64 // header included
	Index     uint64
	GrantTerm uint64 // the Raft term in which grants were last changed; 0: never
	ClusterID string
	TTL       time.Duration
	Limits    []limit.Limit // both layers, the API's first
	Sessions  []SessionSummary
}

// SessionSummary is one session in a snapshot.
type SessionSummary struct {
	Session
	Keys  int   // of connections, of which it holds slots
	Slots int64 // of these keys together
	Rates int   // keys of rates of which it holds shares
}

// ReadSummary reads a saved snapshot to its end, in memory that depends on the number of limits and
// sessions alone, and verifies checksum and values. Errors wrap [ErrDamaged], [ErrNewer],
// [ErrTooMany] or [limit.ErrInvalid], or are r's.
func ReadSummary(r io.Reader) (*Summary, error) {
	header := make([]byte, snapshotHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, torn(err)
	}
	if string(header[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("it doesn't start with %s: %w", snapshotMagic, ErrDamaged)
	}
	version := binary.BigEndian.Uint32(header[len(snapshotMagic):])
	length := binary.BigEndian.Uint64(header[len(snapshotMagic)+4:])
	if length > maxSnapshot {
		return nil, fmt.Errorf("its header says %d bytes, more than the %d that one may have: %w", length, maxSnapshot, ErrDamaged)
	}
	sum := sha256.New()
	sum.Write(header[:snapshotPrefix])
	body := &summaryReader{r: bufio.NewReaderSize(r, 64<<10), sum: sum, left: int64(length)}
	s := &Summary{Version: int(version), Bytes: int64(snapshotHeader) + int64(length)}
	var content error
	if version == snapshotVersion {
		content = s.read(body)
	} else {
		content = fmt.Errorf("it has version %d, known is %d: %w", version, snapshotVersion, ErrNewer)
	}
	// What is wrong with the content means something only where the checksum is right.
	if err := body.finish(); err != nil {
		return nil, err
	}
	if string(sum.Sum(nil)) != string(header[snapshotPrefix:]) {
		return nil, fmt.Errorf("its checksum is wrong: %w", ErrDamaged)
	}
	if content == nil {
		content = validateLayers(s.Limits)
	}
	if content != nil {
		return nil, content
	}
	return s, nil
}

// read reads the message Snapshot.
func (s *Summary) read(b *summaryReader) error {
	rest := b.left
	return b.fields(&rest, func(n protowire.Number, v summaryValue) error {
		switch {
		case n == snapshotLimits && v.bytes:
			return s.readLimit(v)
		case n == snapshotSessions && v.bytes:
			return s.readSession(v)
		case n == snapshotLevels && v.bytes:
			return v.level()
		case n == 2 && v.bytes:
			var err error
			s.ClusterID, err = v.text()
			return err
		case n == 1 && !v.bytes:
			s.Index = v.number
		case n == 3 && !v.bytes:
			s.TTL = time.Duration(v.number)
		case n == 6 && !v.bytes:
			s.GrantTerm = v.number
		case n == 4 && !v.bytes, n == 5 && !v.bytes, n == 7 && !v.bytes:
		default:
			return unknownField("the snapshot", n)
		}
		return nil
	})
}

func (s *Summary) readLimit(v summaryValue) error {
	raw, err := v.take()
	if err != nil {
		return err
	}
	var m fsmpb.Limit
	if err := proto.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("a limit can't be read (%v): %w", err, ErrNewer)
	}
	l, err := fsmpb.ParseLimit(&m)
	if err != nil {
		return fmt.Errorf("it has %w: %w", err, ErrNewer)
	}
	if len(s.Limits) >= maxSummarised {
		return fmt.Errorf("%w: more than %d limits", ErrTooMany, maxSummarised)
	}
	s.Limits = append(s.Limits, l)
	return nil
}

func (s *Summary) readSession(v summaryValue) error {
	if len(s.Sessions) >= maxSummarised {
		return fmt.Errorf("%w: more than %d sessions", ErrTooMany, maxSummarised)
	}
	var session SessionSummary
	rest := v.size
	err := v.from.fields(&rest, func(n protowire.Number, f summaryValue) error {
		switch {
		case n == 1 && !f.bytes:
			session.ID = f.number
			return nil
		case (n == 2 || n == 3) && f.bytes:
			into := &session.Node
			if n == 3 {
				into = &session.Identity
			}
			var err error
			*into, err = f.text()
			return err
		case n == sessionGrants && f.bytes:
			key, slots, err := f.grant()
			if key.Resource.IsRate() {
				session.Rates++
			} else {
				session.Keys++
				session.Slots += slots
			}
			return err
		}
		return unknownField("a session", n)
	})
	s.Sessions = append(s.Sessions, session)
	return err
}

func unknownField(of string, n protowire.Number) error {
	return fmt.Errorf("field %d of %s is unknown here: %w", n, of, ErrNewer)
}

// summaryReader reads protobuf from a stream: what has been read is in the checksum, and never more
// than one field in memory.
type summaryReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	left int64 // of the body
	buf  []byte
}

// summaryValue is a field's value: a number, or bytes that have yet to be taken.
type summaryValue struct {
	from   *summaryReader
	bytes  bool
	number uint64
	size   int64
}

// fields calls f with each field of a message of rest bytes. f takes a value's bytes whole.
func (b *summaryReader) fields(rest *int64, f func(protowire.Number, summaryValue) error) error {
	for *rest > 0 {
		tag, err := b.varint(rest)
		if err != nil {
			return err
		}
		number, kind := protowire.DecodeTag(tag)
		v := summaryValue{from: b, bytes: kind == protowire.BytesType}
		if kind != protowire.VarintType && kind != protowire.BytesType {
			return fmt.Errorf("field %d has a type that is unknown here: %w", number, ErrNewer)
		}
		if v.number, err = b.varint(rest); err != nil {
			return err
		}
		if v.bytes {
			if v.number > uint64(*rest) {
				return notProto()
			}
			v.size = int64(v.number)
			*rest -= v.size
		}
		if err := f(number, v); err != nil {
			return err
		}
	}
	return nil
}

func notProto() error { return fmt.Errorf("its content is no protobuf: %w", ErrNewer) }

// varint reads a number, and takes its length from rest.
func (b *summaryReader) varint(rest *int64) (uint64, error) {
	var raw [binary.MaxVarintLen64]byte
	for i := range raw {
		if *rest <= 0 {
			return 0, notProto()
		}
		if err := b.readFull(raw[i : i+1]); err != nil {
			return 0, err
		}
		*rest--
		if raw[i] < 0x80 {
			n, size := protowire.ConsumeVarint(raw[:i+1])
			if size < 0 {
				return 0, notProto()
			}
			return n, nil
		}
	}
	return 0, notProto()
}

// take reads a value's bytes, which are valid until the next.
func (v summaryValue) take() ([]byte, error) {
	if v.size > maxSummaryField {
		return nil, fmt.Errorf("a field of %d bytes is longer than any that is known here: %w", v.size, ErrNewer)
	}
	b := v.from
	if int64(cap(b.buf)) < v.size {
		b.buf = make([]byte, v.size)
	}
	b.buf = b.buf[:v.size]
	return b.buf, b.readFull(b.buf)
}

// text reads a value as text, which protobuf wants in UTF-8.
func (v summaryValue) text() (string, error) {
	raw, err := v.take()
	if err == nil && !utf8.Valid(raw) {
		err = notProto()
	}
	return string(raw), err
}

// grant reads a value as a grant.
func (v summaryValue) grant() (limit.Key, int64, error) {
	var m fsmpb.Grant
	key, err := v.counted(&m, m.GetKey)
	return key, m.GetSlots(), err
}

// level reads a value as the level of a rate, of which nothing is told.
func (v summaryValue) level() error {
	var m fsmpb.Level
	key, err := v.counted(&m, m.GetKey)
	if err == nil && !key.Resource.IsRate() {
		err = fmt.Errorf("it has a level of key %q, which is no rate: %w", key.String(), ErrNewer)
	}
	return err
}

// counted reads a message with a key.
func (v summaryValue) counted(m proto.Message, keyOf func() *fsmpb.Key) (limit.Key, error) {
	raw, err := v.take()
	if err != nil {
		return limit.Key{}, err
	}
	if err := proto.Unmarshal(raw, m); err != nil {
		return limit.Key{}, notProto()
	}
	key, err := fsmpb.ParseKey(keyOf())
	if err := errors.Join(err, fsmpb.Known(m)); err != nil {
		return limit.Key{}, fmt.Errorf("it has %w: %w", err, ErrNewer)
	}
	return key, nil
}

// readFull reads from the body.
func (b *summaryReader) readFull(p []byte) error {
	if int64(len(p)) > b.left {
		return notProto()
	}
	if _, err := io.ReadFull(b.r, p); err != nil {
		return torn(err)
	}
	b.left -= int64(len(p))
	b.sum.Write(p)
	return nil
}

// finish reads what is left of the body into the checksum, and makes sure that nothing follows.
func (b *summaryReader) finish() error {
	if n, err := io.CopyN(b.sum, b.r, b.left); err != nil {
		b.left -= n
		return torn(err)
	}
	switch _, err := b.r.ReadByte(); {
	case err == nil:
		return fmt.Errorf("it goes on behind its end: %w", ErrDamaged)
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// torn tells a snapshot that is too short from one that can't be read.
func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is cut short: %w", ErrDamaged)
	}
	return err
}

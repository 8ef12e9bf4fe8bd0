package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A snapshot is a header and a body. The header has the same layout in every
// version, so that damage is told from a version that is too new:
//
//	magic "WEIRSNAP"                 8 bytes
//	version                          4 bytes, big endian
//	length of the body               8 bytes, big endian
//	SHA-256 of all before, and body  32 bytes
//
// The body is the protobuf message Snapshot, written field by field.
const (
	snapshotMagic   = "WEIRSNAP"
	snapshotVersion = 1
	snapshotPrefix  = len(snapshotMagic) + 4 + 8
	snapshotHeader  = snapshotPrefix + sha256.Size

	// maxSnapshot bounds what is read into memory: 1 GiB, some ten million grants.
	maxSnapshot = 1 << 30
)

// ErrCorrupt is wrapped by errors about a snapshot that is torn or damaged.
var ErrCorrupt = errors.New("the snapshot is damaged: remove its directory under data_dir to fall back on the one before, " +
	"or remove data_dir and let this server join again and copy another's")

// image is a state's content, frozen: it shares nothing with the state that may change.
type image struct {
	head     *fsmpb.Snapshot // without lists
	limits   []Limit         // both layers
	sessions []Session
	grants   []Adjustment
}

// image copies what a snapshot needs, which takes some tens of nanoseconds a grant. The
// sorting waits for sort, since raft applies nothing meanwhile.
func (s *State) image() *image {
	grants := 0
	for _, h := range s.grants {
		grants += len(h.slots)
	}
	m := &image{
		head: &fsmpb.Snapshot{
			Index:       s.index,
			ClusterId:   text(s.clusterID),
			TtlNs:       int64(s.ttl),
			LimitsIndex: s.table.Index,
			ShapeIndex:  s.table.ShapeIndex,
			BatchTerm:   s.batchTerm,
			Batch:       s.batch,
		},
		limits:   make([]Limit, 0, len(s.layers.api)+len(s.layers.config)),
		sessions: s.Sessions(),
		grants:   make([]Adjustment, 0, grants),
	}
	m.limits = slices.AppendSeq(m.limits, maps.Values(s.layers.api))
	m.limits = slices.AppendSeq(m.limits, maps.Values(s.layers.config))
	for key, h := range s.grants {
		for _, g := range h.slots {
			m.grants = append(m.grants, Adjustment{Session: g.Session, Key: key, Delta: g.Slots})
		}
	}
	return m
}

// sort gives the lists the one order in which they are written.
func (m *image) sort() {
	slices.SortFunc(m.limits, func(a, b Limit) int {
		if a.Source != b.Source {
			return int(a.Source) - int(b.Source)
		}
		return strings.Compare(a.Pattern.text, b.Pattern.text)
	})
	slices.SortFunc(m.grants, compareAdjustments)
}

// WriteSnapshot writes the state as a snapshot. Equal states give equal bytes.
func (s *State) WriteSnapshot(w io.Writer) error { return s.image().write(w) }

// write goes over the image twice, first for the length and the checksum, so that
// it never holds more of the encoding in memory than one session's part.
func (m *image) write(w io.Writer) error {
	m.sort()
	var length counter
	if err := m.body(&length); err != nil {
		return fmt.Errorf("encode the snapshot: %w", err)
	}
	header := []byte(snapshotMagic)
	header = binary.BigEndian.AppendUint32(header, snapshotVersion)
	header = binary.BigEndian.AppendUint64(header, uint64(length))
	sum := sha256.New()
	sum.Write(header)
	if err := m.body(sum); err != nil {
		return fmt.Errorf("encode the snapshot: %w", err)
	}
	out := bufio.NewWriterSize(w, 64<<10)
	out.Write(sum.Sum(header)) // an error stays until Flush
	if err := m.body(out); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return nil
}

// counter counts what is written to it.
type counter uint64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// body writes the message: protobuf lets its fields be written one after the other.
func (m *image) body(w io.Writer) error {
	e := encoder{w: w}
	e.message(m.head)
	for i := range m.limits {
		e.field(snapshotLimits, limitToPB(&m.limits[i]))
	}
	rest := m.grants
	for _, s := range m.sessions {
		n := 0
		for n < len(rest) && rest[n].Session == s.ID {
			n++
		}
		e.field(snapshotSessions, sessionToPB(s, rest[:n]))
		rest = rest[n:]
	}
	return e.err
}

// The numbers of Snapshot's lists in fsm.proto.
const (
	snapshotLimits   protowire.Number = 8
	snapshotSessions protowire.Number = 9
)

// encoder writes protobuf until the first error.
type encoder struct {
	w   io.Writer
	buf []byte
	err error
}

func (e *encoder) message(m proto.Message) {
	if e.err != nil {
		return
	}
	if e.buf, e.err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(e.buf[:0], m); e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
}

func (e *encoder) field(n protowire.Number, m proto.Message) {
	if e.err != nil {
		return
	}
	e.buf = protowire.AppendTag(e.buf[:0], n, protowire.BytesType)
	e.buf = protowire.AppendVarint(e.buf, uint64(proto.Size(m)))
	if e.buf, e.err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(e.buf, m); e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
}

func sessionToPB(s Session, grants []Adjustment) *fsmpb.Session {
	m := &fsmpb.Session{Id: s.ID, Node: text(s.Node), Identity: text(s.Identity), Grants: make([]*fsmpb.Grant, len(grants))}
	for i, g := range grants {
		m.Grants[i] = &fsmpb.Grant{Key: keyToPB(g.Key), Slots: g.Delta}
	}
	return m
}

// ReadSnapshot reads a snapshot to its end and verifies it: header, checksum, content and
// invariants. Errors wrap [ErrCorrupt] where it is damaged, and [ErrNewer] where this
// version can't understand it.
func ReadSnapshot(r io.Reader) (*State, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	var m fsmpb.Snapshot
	if err := proto.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("read the snapshot: its checksum is right, but it is no protobuf (%v): %w", err, ErrNewer)
	}
	s, err := stateFromPB(&m)
	if err != nil {
		return nil, fmt.Errorf("read the snapshot: it has %w: %w", err, ErrNewer)
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("read the snapshot: its checksum is right, but it breaks what must hold (%w); "+
			"remove data_dir and let this server join again and copy another's", err)
	}
	return s, nil
}

func readBody(r io.Reader) ([]byte, error) {
	header := make([]byte, snapshotHeader)
	if n, err := io.ReadFull(r, header); err != nil {
		return nil, readError(err, "it ends after %d bytes, within its header", n)
	}
	if string(header[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("it doesn't start with %s: %w", snapshotMagic, ErrCorrupt)
	}
	version := binary.BigEndian.Uint32(header[len(snapshotMagic):])
	length := binary.BigEndian.Uint64(header[len(snapshotMagic)+4:])
	if length > maxSnapshot {
		return nil, fmt.Errorf("its header says %d bytes, more than the %d that one may have: %w", length, maxSnapshot, ErrCorrupt)
	}
	// The buffer grows with what is really there, not with what the header says.
	var body bytes.Buffer
	if n, err := io.CopyN(&body, r, int64(length)); err != nil {
		return nil, readError(err, "it ends after %d of %d bytes", n, length)
	}
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return nil, fmt.Errorf("it goes on behind its end: %w", ErrCorrupt)
	case err != io.EOF:
		return nil, err
	}
	sum := sha256.New()
	sum.Write(header[:snapshotPrefix])
	sum.Write(body.Bytes())
	if !bytes.Equal(sum.Sum(nil), header[snapshotPrefix:]) {
		return nil, fmt.Errorf("its checksum is wrong: %w", ErrCorrupt)
	}
	if version != snapshotVersion {
		return nil, fmt.Errorf("it has version %d, known is %d: %w", version, snapshotVersion, ErrNewer)
	}
	return body.Bytes(), nil
}

// readError tells a file that is too short from one that can't be read.
func readError(err error, format string, args ...any) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf(format+": %w", append(args, ErrCorrupt)...)
	}
	return err
}

func stateFromPB(m *fsmpb.Snapshot) (*State, error) {
	if err := known(m); err != nil {
		return nil, err
	}
	s := NewState()
	s.index = m.GetIndex()
	s.clusterID, s.ttl = m.GetClusterId(), time.Duration(m.GetTtlNs())
	s.batchTerm, s.batch = m.GetBatchTerm(), m.GetBatch()
	for _, lm := range m.GetLimits() {
		l, err := limitFromPB(lm)
		if err != nil {
			return nil, err
		}
		if err := validateSource(l.Source); err != nil {
			return nil, err
		}
		layer := s.layers.of(l.Source)
		if _, twice := layer[l.Pattern.text]; twice {
			return nil, fmt.Errorf("limit %q twice", l.Pattern.text)
		}
		layer[l.Pattern.text] = l
	}
	s.table = newSortedTable(m.GetLimitsIndex(), m.GetShapeIndex(), s.layers.all())
	for _, sm := range m.GetSessions() {
		if err := s.addSession(sm); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *State) addSession(m *fsmpb.Session) error {
	if err := known(m); err != nil {
		return err
	}
	id := m.GetId()
	if _, twice := s.sessions[id]; twice {
		return fmt.Errorf("session %d twice", id)
	}
	s.sessions[id] = Session{ID: id, Node: m.GetNode(), Identity: m.GetIdentity()}
	s.names[m.GetNode()] = id
	for _, g := range m.GetGrants() {
		key, err := keyFromPB(g.GetKey())
		if err := errors.Join(err, known(g)); err != nil {
			return err
		}
		if s.grants[key].of(id) != 0 {
			return fmt.Errorf("key %q twice in session %d", key.Name, id)
		}
		s.grants.add(id, key, g.GetSlots())
	}
	return nil
}

// Persist implements [raft.FSMSnapshot].
func (m *image) Persist(sink raft.SnapshotSink) error {
	if err := m.write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements [raft.FSMSnapshot].
func (m *image) Release() {}

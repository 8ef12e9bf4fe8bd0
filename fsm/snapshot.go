package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
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
	limits   []limit.Limit   // both layers
	sessions []Session       // by id
	keys     []keyGrants
}

// keyGrants is who holds slots of one key, by session id, and of a rate the level of what nobody
// holds and the largest burst.
type keyGrants struct {
	key   limit.Key
	level int64
	burst int64
	slots []SessionSlots
}

// image copies what a snapshot needs, which takes some tens of nanoseconds a grant. The
// sorting waits for write, since raft applies nothing meanwhile.
func (s *State) image() *image {
	grants := 0
	for _, h := range s.grants {
		grants += len(h.slots)
	}
	m := &image{
		head: &fsmpb.Snapshot{
			Index:       s.index,
			ClusterId:   fsmpb.Text(s.clusterID),
			TtlNs:       int64(s.ttl),
			LimitsIndex: s.table.Index,
			ShapeIndex:  s.table.ShapeIndex,
			BatchTerm:   s.batchTerm,
			Batch:       s.batch,
		},
		limits:   make([]limit.Limit, 0, len(s.layers.api)+len(s.layers.config)),
		sessions: s.Sessions(),
		keys:     make([]keyGrants, 0, len(s.grants)),
	}
	for _, layer := range []map[limit.Pattern]*limit.Limit{s.layers.api, s.layers.config} {
		for _, l := range layer {
			m.limits = append(m.limits, *l)
		}
	}
	all := make([]SessionSlots, 0, grants)
	for key, h := range s.grants {
		from := len(all)
		all = append(all, h.slots...)
		m.keys = append(m.keys, keyGrants{key, h.level, h.burst, all[from:]})
	}
	return m
}

// sort gives the lists the one order in which they are written.
func (m *image) sort() {
	slices.SortFunc(m.limits, func(a, b limit.Limit) int {
		if a.Source != b.Source {
			return int(a.Source) - int(b.Source)
		}
		return a.Pattern.Compare(b.Pattern)
	})
	slices.SortFunc(m.keys, func(a, b keyGrants) int { return a.key.Compare(b.key) })
}

// WriteSnapshot writes the state as a snapshot. Equal states give equal bytes.
func (s *State) WriteSnapshot(w io.Writer) error { return s.image().write(w) }

// write encodes the image twice, first for the checksum, so that it never holds the encoding in
// memory.
func (m *image) write(w io.Writer) error {
	m.sort()
	parts := m.bySession()
	header := []byte(snapshotMagic)
	header = binary.BigEndian.AppendUint32(header, snapshotVersion)
	header = binary.BigEndian.AppendUint64(header, uint64(m.size(parts)))
	sum := sha256.New()
	sum.Write(header)
	if err := m.body(sum, parts); err != nil {
		return fmt.Errorf("encode the snapshot: %w", err)
	}
	out := bufio.NewWriterSize(w, 64<<10)
	out.Write(sum.Sum(header)) // an error stays until Flush
	if err := m.body(out, parts); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return nil
}

// sessionPart is what one session's message holds, and its length.
type sessionPart struct {
	held []held
	size int
}

// held is a grant of a key, which is named by its place among the image's.
type held struct {
	key   int
	slots int64
}

// bySession lists each session's grants, in the order of the keys.
func (m *image) bySession() []sessionPart {
	parts := make([]sessionPart, len(m.sessions))
	of := make(map[uint64]*sessionPart, len(m.sessions))
	for i, s := range m.sessions {
		of[s.ID] = &parts[i]
		parts[i].size = sizeUint(s.ID) + sizeText(fsmpb.Text(s.Node)) + sizeText(fsmpb.Text(s.Identity))
	}
	for i, k := range m.keys {
		for _, g := range k.slots {
			p := of[g.Session] // of an open session: invariant 2
			p.held = append(p.held, held{i, g.Slots})
			p.size += sizeField(sizeCounted(k.key, g.Slots))
		}
	}
	return parts
}

// size is the body's length.
func (m *image) size(parts []sessionPart) int {
	n := proto.Size(m.head)
	for i := range m.limits {
		n += sizeField(proto.Size(fsmpb.LimitOf(&m.limits[i])))
	}
	for _, p := range parts {
		n += sizeField(p.size)
	}
	for i := range m.keys {
		if k := &m.keys[i]; k.key.Resource.IsRate() {
			n += sizeField(sizeLevel(k))
		}
	}
	return n
}

// body writes the message: protobuf lets its fields be written one after the other. The grants, of
// which there may be millions, and the levels are encoded here, and all else by the library.
func (m *image) body(w io.Writer, parts []sessionPart) error {
	e := encoder{w: w}
	e.message(m.head)
	for i := range m.limits {
		l := fsmpb.LimitOf(&m.limits[i])
		e.begin(snapshotLimits, proto.Size(l))
		e.message(l)
	}
	for i, s := range m.sessions {
		e.begin(snapshotSessions, parts[i].size)
		e.message(&fsmpb.Session{Id: s.ID, Node: fsmpb.Text(s.Node), Identity: fsmpb.Text(s.Identity)})
		for _, h := range parts[i].held {
			e.grant(m.keys[h.key].key, h.slots)
		}
	}
	for i := range m.keys {
		if k := &m.keys[i]; k.key.Resource.IsRate() {
			e.level(k)
		}
	}
	e.flush()
	return e.err
}

// The numbers of the fields in fsm.proto that are encoded here. All have tags of one byte.
const (
	snapshotLimits   protowire.Number = 8
	snapshotSessions protowire.Number = 9
	snapshotLevels   protowire.Number = 10
	sessionGrants    protowire.Number = 4
	countedKey       protowire.Number = 1 // of Grant, and of Level
	countedNumber    protowire.Number = 2
	levelBurst       protowire.Number = 3
	keyScope         protowire.Number = 1
	keyResource      protowire.Number = 2
	keyName          protowire.Number = 3
)

// sizeField is the size of a message of n bytes as a field.
func sizeField(n int) int { return 1 + protowire.SizeBytes(n) }

// sizeUint is the size of a number as a field; zero is left out.
func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// sizeText is the size of a text as a field; an empty one is left out.
func sizeText(s string) int {
	if s == "" {
		return 0
	}
	return sizeField(len(s))
}

func sizeKey(k limit.Key) int {
	return sizeUint(uint64(k.Scope)) + sizeUint(uint64(k.Resource)) + sizeText(fsmpb.Text(k.Name))
}

// sizeCounted is the size of a Grant, and of the same in a Level: a key, and a number that is never
// negative.
func sizeCounted(k limit.Key, n int64) int { return sizeField(sizeKey(k)) + sizeUint(uint64(n)) }

func sizeLevel(k *keyGrants) int { return sizeCounted(k.key, k.level) + sizeUint(uint64(k.burst)) }

// encoder writes protobuf until the first error.
type encoder struct {
	w   io.Writer
	buf []byte
	err error
}

// encoderBuffer is how much is collected before it is written.
const encoderBuffer = 32 << 10

// begin starts a field that has a length.
func (e *encoder) begin(n protowire.Number, size int) {
	e.buf = protowire.AppendTag(e.buf, n, protowire.BytesType)
	e.buf = protowire.AppendVarint(e.buf, uint64(size))
}

func (e *encoder) message(m proto.Message) {
	if e.err == nil {
		e.buf, e.err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(e.buf, m)
		e.drain()
	}
}

// grant writes a Grant as a field.
func (e *encoder) grant(k limit.Key, slots int64) {
	e.begin(sessionGrants, sizeCounted(k, slots))
	e.counted(k, slots)
	e.drain()
}

// level writes a Level as a field.
func (e *encoder) level(k *keyGrants) {
	e.begin(snapshotLevels, sizeLevel(k))
	e.counted(k.key, k.level)
	e.number(levelBurst, uint64(k.burst))
	e.drain()
}

// counted writes what a Grant and a Level have in common.
func (e *encoder) counted(k limit.Key, n int64) {
	e.begin(countedKey, sizeKey(k))
	e.number(keyScope, uint64(k.Scope))
	e.number(keyResource, uint64(k.Resource))
	if name := fsmpb.Text(k.Name); name != "" {
		e.begin(keyName, len(name))
		e.buf = append(e.buf, name...)
	}
	e.number(countedNumber, uint64(n))
}

func (e *encoder) number(n protowire.Number, v uint64) {
	if v != 0 {
		e.buf = protowire.AppendTag(e.buf, n, protowire.VarintType)
		e.buf = protowire.AppendVarint(e.buf, v)
	}
}

// drain writes what has been collected, once it is enough.
func (e *encoder) drain() {
	if len(e.buf) >= encoderBuffer {
		e.flush()
	}
}

func (e *encoder) flush() {
	if e.err == nil {
		_, e.err = e.w.Write(e.buf)
	}
	e.buf = e.buf[:0]
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
	if err := fsmpb.Known(m); err != nil {
		return nil, err
	}
	s := NewState()
	s.index = m.GetIndex()
	s.clusterID, s.ttl = m.GetClusterId(), time.Duration(m.GetTtlNs())
	s.batchTerm, s.batch = m.GetBatchTerm(), m.GetBatch()
	for _, lm := range m.GetLimits() {
		l, err := fsmpb.ParseLimit(lm)
		if err != nil {
			return nil, err
		}
		if err := validateSource(l.Source); err != nil {
			return nil, err
		}
		layer := s.layers.of(l.Source)
		if _, twice := layer[l.Pattern]; twice {
			return nil, fmt.Errorf("limit %q twice", l.Name())
		}
		layer[l.Pattern] = &l
	}
	s.setTable(limit.NewSortedTable(m.GetLimitsIndex(), m.GetShapeIndex(), s.layers.all()))
	for _, sm := range m.GetSessions() {
		if err := s.addSession(sm); err != nil {
			return nil, err
		}
	}
	if err := s.addLevels(m.GetLevels()); err != nil {
		return nil, err
	}
	if v := s.LogVersion(); v > LogVersion {
		return nil, fmt.Errorf("what needs log version %d, known is %d", v, LogVersion)
	}
	return s, nil
}

// addLevels reads the levels, once all grants have been read: each rate that is granted has one.
func (s *State) addLevels(list []*fsmpb.Level) error {
	seen := make(map[limit.Key]bool, len(list))
	for _, m := range list {
		key, err := fsmpb.ParseKey(m.GetKey())
		if err := errors.Join(err, fsmpb.Known(m)); err != nil {
			return err
		}
		if !key.Resource.IsRate() {
			return fmt.Errorf("a level of key %q, which is no rate", key.String())
		}
		if seen[key] {
			return fmt.Errorf("the level of key %q twice", key.String())
		}
		seen[key] = true
		h := s.grants.entry(key)
		h.level, h.burst = m.GetLevel(), m.GetBurst()
	}
	for key := range s.grants {
		if key.Resource.IsRate() && !seen[key] {
			return errors.New("a rate that is granted and has no level")
		}
	}
	s.grants.noteBursts(s.table) // snapshots without bursts have been written, too
	return nil
}

func (s *State) addSession(m *fsmpb.Session) error {
	if err := fsmpb.Known(m); err != nil {
		return err
	}
	id := m.GetId()
	if _, twice := s.sessions[id]; twice {
		return fmt.Errorf("session %d twice", id)
	}
	s.sessions[id] = Session{ID: id, Node: m.GetNode(), Identity: m.GetIdentity()}
	s.names[m.GetNode()] = id
	for _, g := range m.GetGrants() {
		key, err := fsmpb.ParseKey(g.GetKey())
		if err := errors.Join(err, fsmpb.Known(g)); err != nil {
			return err
		}
		if s.grants[key].of(id) != 0 {
			return fmt.Errorf("key %q twice in session %d", key.String(), id)
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

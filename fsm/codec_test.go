package fsm

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// everyCommand has each command, with each field set and with none, of each version.
func everyCommand() []Command {
	index := uint64(7)
	full := limit.Limit{
		Pattern: pattern("*.example.com:443"), Connections: 5, Queue: limit.Queue{Timeout: 2 * time.Second, Size: 100},
		Shared: true, Evict: true, Source: limit.SourceAPI, ModifyIndex: 9,
	}
	bare := limit.Limit{Pattern: pattern("10.0.0.0/8"), Connections: limit.Unlimited}
	zero := limit.Limit{Pattern: pattern("blocked.example"), Source: limit.SourceConfig}
	all := Precondition{MatchIndex: &index, MustExist: true, MustNotExist: true}
	commands := []Command{
		&Init{}, &Init{ClusterID: "id", TTL: 10 * time.Second, Limits: []limit.Limit{full, bare, zero}},
		&OpenSession{}, &OpenSession{Term: 3, Node: "a", Identity: "xyz"},
		&CloseSessions{Reason: CloseLeft}, &CloseSessions{Term: 3, Sessions: []uint64{1, math.MaxUint64}, Reason: CloseExpired},
		&Adjust{}, &Adjust{Term: 3, Batch: 4, Adjustments: []Adjustment{
			{Session: 1, Key: limit.HostConnections("a.example"), Delta: 5},
			{Session: 2, Key: limit.HostConnections("[::1]:80"), Delta: -5},
			{Session: 0, Key: limit.HostConnections(""), Delta: math.MinInt64},
		}},
		&PutLimit{Limit: full}, &PutLimit{Limit: zero, Precondition: all}, &PutLimit{Limit: limit.Limit{Pattern: pattern("*"), Connections: -5}},
		&DeleteLimit{Pattern: full.Pattern}, &DeleteLimit{Pattern: bare.Pattern, Precondition: all},
		&RestoreLimits{}, &RestoreLimits{Limits: []limit.Limit{full, bare, zero}, Precondition: all},
		&ReplaceLimits{Source: limit.SourceConfig}, &ReplaceLimits{Source: limit.SourceAPI, Limits: []limit.Limit{zero, full}, Precondition: all},
	}
	for _, l := range newerLimits() {
		commands = append(commands,
			&Init{ClusterID: "id", TTL: 10 * time.Second, Limits: []limit.Limit{zero, l}},
			&PutLimit{Limit: l, Precondition: all},
			&ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{full, l}},
			&RestoreLimits{Limits: []limit.Limit{l, zero}},
		)
		if l.Pattern.Scope() != limit.ScopeHost {
			commands = append(commands, &DeleteLimit{Pattern: l.Pattern, Precondition: all})
		}
	}
	for _, a := range newerAdjustments() {
		commands = append(commands, &Adjust{Term: 3, Batch: 5, Adjustments: []Adjustment{{Session: 1, Key: limit.HostConnections("a"), Delta: 1}, a}})
	}
	return append(commands, &Adjust{Term: 3, Batch: 6, Forget: []limit.Key{{Scope: limit.ScopeTotal, Resource: limit.Upload}, limit.HostConnections("a")}})
}

// newerLimits are limits that only version 3 of the log has.
func newerLimits() []limit.Limit {
	rate := limit.Rate{Thousandths: 500, Per: time.Minute, Burst: 3}
	bandwidth := limit.Bandwidth{Upload: 1 << 20, Download: 1 << 30, Burst: 1 << 16}
	host, free := pattern("a.example"), limit.Unlimited
	return []limit.Limit{
		{Pattern: host, Connections: free, Requests: rate},
		{Pattern: host, Connections: free, Bandwidth: bandwidth},
		{Pattern: host, Connections: 1, Report: true},
		{Pattern: limittest.Scoped(limit.ScopeClient, "10.0.0.0/8"), Connections: 2, Shared: true, Source: limit.SourceAPI},
		{Pattern: limittest.Scoped(limit.ScopeUser, "ünal"), Connections: 0, Requests: rate, Bandwidth: bandwidth, Queue: limit.Queue{Timeout: 1, Size: 2}},
		{Pattern: limittest.Scoped(limit.ScopeTotal, ""), Connections: free, Requests: rate, Report: true, Evict: true},
		{Pattern: limittest.Scoped(limit.ScopeKey, "tenant/*"), Connections: 7, Source: limit.SourceConfig, ModifyIndex: 4},
		{Pattern: limittest.Scoped(limit.ScopeConnection, ""), Connections: free, Bandwidth: limit.Bandwidth{Download: 4096}},
	}
}

// newerAdjustments are adjustments that only version 3 of the log has.
func newerAdjustments() []Adjustment {
	key := func(s limit.Scope, r limit.Resource, name string) limit.Key {
		return limit.Key{Scope: s, Resource: r, Name: name}
	}
	return []Adjustment{
		{Session: 1, Key: key(limit.ScopeHost, limit.Requests, "a.example"), Delta: 1000},
		{Session: 1, Key: key(limit.ScopeClient, limit.Connections, "10.0.0.1"), Delta: 1},
		{Session: 2, Key: key(limit.ScopeTotal, limit.Download, ""), Delta: -limit.Shares, Level: math.MaxInt64},
		{Session: 2, Key: key(limit.ScopeUser, limit.Upload, "ünal"), Delta: -1, Level: 1},
		{Session: 3, Key: key(limit.ScopeKey, limit.Requests, "tenant/*"), Delta: -1, Level: -1},
		{Session: 3, Key: limit.HostConnections("a"), Delta: -1, Level: 1},
	}
}

func equalCommands(a, b Command) string {
	return cmp.Diff(a, b, cmp.Comparer(func(a, b limit.Pattern) bool { return a == b }))
}

func TestEncodeDecode(t *testing.T) {
	kinds := map[reflect.Type]bool{}
	for _, c := range everyCommand() {
		kinds[reflect.TypeOf(c)] = true
		b := Encode(c)
		if b[0] != 1 || !bytes.Equal(b, Encode(c)) {
			t.Errorf("%#v: % x", c, b)
		}
		got, err := Decode(b)
		if err != nil {
			t.Errorf("%#v: %v", c, err)
			continue
		}
		if diff := equalCommands(c, got); diff != "" {
			t.Errorf("%T (-want +got):\n%s", c, diff)
		}
	}
	if want := (&fsmpb.Command{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields().Len(); len(kinds) != want {
		t.Errorf("%d kinds of command were tried, there are %d", len(kinds), want)
	}
}

func TestWireFormsOfKeysAndLimits(t *testing.T) {
	for _, c := range everyCommand() {
		var limits []limit.Limit
		switch c := c.(type) {
		case *Init:
			limits = c.Limits
		case *PutLimit:
			limits = []limit.Limit{c.Limit}
		case *ReplaceLimits:
			limits = c.Limits
		case *Adjust:
			for _, a := range c.Adjustments {
				if got, err := fsmpb.ParseKey(fsmpb.KeyOf(a.Key)); err != nil || got != a.Key {
					t.Errorf("%#v: %#v, %v", a.Key, got, err)
				}
			}
		}
		for _, l := range limits {
			if got, err := fsmpb.ParseLimit(fsmpb.LimitOf(&l)); err != nil || got != l {
				t.Errorf("%+v: %+v, %v", l, got, err)
			}
		}
	}
	if _, err := fsmpb.ParseKey(nil); err == nil {
		t.Error("no key was read")
	}
	if _, err := fsmpb.ParseLimit(nil); err == nil {
		t.Error("no limit was read")
	}
}

func TestEncodeMakesTextUTF8(t *testing.T) {
	c, err := Decode(Encode(&OpenSession{Term: 1, Node: "a\xffb", Identity: "\xc3"}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := equalCommands(&OpenSession{Term: 1, Node: "a\ufffdb", Identity: "\ufffd"}, c); diff != "" {
		t.Error(diff)
	}
}

func TestEncodePanicsRatherThanPoisonTheLog(t *testing.T) {
	for _, c := range []Command{
		&CloseSessions{}, &PutLimit{}, &DeleteLimit{}, &ReplaceLimits{}, &ReplaceLimits{Source: limit.SourceAPI, Limits: make([]limit.Limit, 1)},
		&Adjust{Adjustments: make([]Adjustment, 1)}, &CloseSessions{Reason: 3}, nil,
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%#v was encoded", c)
				}
			}()
			Encode(c)
		}()
	}
}

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	enc := func(m *fsmpb.Command) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{1}, b...)
	}
	put := func(l *fsmpb.Limit) []byte {
		return enc(&fsmpb.Command{Command: &fsmpb.Command_PutLimit{PutLimit: &fsmpb.PutLimit{Limit: l}}})
	}
	adjust := func(k *fsmpb.Key) []byte {
		return enc(&fsmpb.Command{Command: &fsmpb.Command_Adjust{Adjust: &fsmpb.Adjust{Adjustments: []*fsmpb.Adjustment{{Key: k}}}}})
	}
	for name, c := range map[string]struct {
		entry []byte
		want  string
	}{
		"version 0":            {[]byte{0}, "version 0"},
		"version 2":            {[]byte{2, 1, 2, 3}, "version 2"},
		"no command":           {[]byte{1}, "no command"},
		"unknown command":      {protowire.AppendBytes(protowire.AppendTag([]byte{1}, 99, protowire.BytesType), nil), "a field of Command"},
		"close reason 0":       {enc(&fsmpb.Command{Command: &fsmpb.Command_CloseSessions{CloseSessions: &fsmpb.CloseSessions{}}}), "close reason 0"},
		"close reason 3":       {enc(&fsmpb.Command{Command: &fsmpb.Command_CloseSessions{CloseSessions: &fsmpb.CloseSessions{Reason: 3}}}), "close reason 3"},
		"replacement's source": {enc(&fsmpb.Command{Command: &fsmpb.Command_ReplaceLimits{ReplaceLimits: &fsmpb.ReplaceLimits{}}}), "source 0"},
		"limit's source":       {put(&fsmpb.Limit{Pattern: "a", Source: 3}), "source 3"},
		"no limit":             {put(nil), "without a limit"},
		"no pattern":           {put(&fsmpb.Limit{}), "not a pattern"},
		"bad pattern":          {put(&fsmpb.Limit{Pattern: "a.*.b"}), "not a pattern"},
		"pattern's spelling":   {put(&fsmpb.Limit{Pattern: "A.b"}), "which is \"a.b\" here"},
		"pattern in Unicode":   {put(&fsmpb.Limit{Pattern: "bücher.example"}), "which is"},
		"deleted pattern": {enc(&fsmpb.Command{Command: &fsmpb.Command_DeleteLimit{DeleteLimit: &fsmpb.DeleteLimit{Pattern: "*:1"}}}),
			"not a pattern"},
		"pattern of init": {enc(&fsmpb.Command{Command: &fsmpb.Command_Init{Init: &fsmpb.Init{Limits: []*fsmpb.Limit{{Pattern: "?"}}}}}),
			"not a pattern"},
		"no key":       {adjust(nil), "key scope 0"},
		"key scope":    {adjust(&fsmpb.Key{Scope: 7, Resource: 1}), "key scope 7"},
		"no key's":     {adjust(&fsmpb.Key{Scope: 6, Resource: 3}), "key scope 6"},
		"large scope":  {adjust(&fsmpb.Key{Scope: 257, Resource: 1}), "key scope 257"},
		"key resource": {adjust(&fsmpb.Key{Scope: 1, Resource: 5}), "key resource 5"},
		"no resource":  {adjust(&fsmpb.Key{Scope: 1}), "key resource 0"},
		"large one":    {adjust(&fsmpb.Key{Scope: 1, Resource: 258}), "key resource 258"},
		"forgotten key": {enc(&fsmpb.Command{Command: &fsmpb.Command_Adjust{Adjust: &fsmpb.Adjust{Forget: []*fsmpb.Key{{Scope: 7, Resource: 2}}}}}),
			"key scope 7"},
		"limit's scope":       {put(&fsmpb.Limit{Pattern: "a", Scope: 7}), "limit scope 7"},
		"limit's large scope": {put(&fsmpb.Limit{Pattern: "a", Scope: 258}), "limit scope 258"},
		"scope host, written": {put(&fsmpb.Limit{Pattern: "a", Scope: 1}), "limit scope 1"},
		"client's spelling":   {put(&fsmpb.Limit{Pattern: "10.1.2.3/8", Scope: 2}), "which is \"10.0.0.0/8\" here"},
		"pattern of total":    {put(&fsmpb.Limit{Pattern: "*", Scope: 4}), "not a pattern"},
		"name of a host":      {put(&fsmpb.Limit{Pattern: "a.example", Scope: 2}), "not a pattern"},
		"star of a user":      {put(&fsmpb.Limit{Pattern: "a*", Scope: 3}), "not a pattern"},
		"requests of nothing": {put(&fsmpb.Limit{Pattern: "a", Requests: &fsmpb.Rate{}}), "requests without a rate"},
		"bandwidth of none":   {put(&fsmpb.Limit{Pattern: "a", Bandwidth: &fsmpb.Bandwidth{}}), "bandwidth without a rate"},
		"deleted scope": {enc(&fsmpb.Command{Command: &fsmpb.Command_DeleteLimit{DeleteLimit: &fsmpb.DeleteLimit{Pattern: "a", Scope: 9}}}),
			"limit scope 9"},
	} {
		got, err := Decode(c.entry)
		if got != nil || !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("%s: %#v, %v, want ErrNewer with %q", name, got, err, c.want)
		}
	}
	for name, entry := range map[string][]byte{"empty": nil, "torn": Encode(everyCommand()[1])[:9], "noise": {1, 0xff, 0xff, 0xff}} {
		if got, err := Decode(entry); got != nil || err == nil || !strings.Contains(err.Error(), "remove its data_dir") {
			t.Errorf("%s: %#v, %v", name, got, err)
		}
	}
}

// TestDecodeRefusesUnknownFields adds a field from the future to each message of each command.
func TestDecodeRefusesUnknownFields(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range everyCommand() {
		for n := 0; ; n++ {
			m := commandToPB(c)
			messages := messagesIn(m.ProtoReflect())
			if n == len(messages) {
				break
			}
			messages[n].SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
			name := string(messages[n].Descriptor().Name())
			tried[name] = true
			b, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Decode(append([]byte{1}, b...)); got != nil || !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "a field of "+name) {
				t.Errorf("%T with an unknown field in its %s: %#v, %v", c, name, got, err)
			}
		}
	}
	if len(tried) != 16 {
		t.Errorf("%d messages were tried: %v", len(tried), tried)
	}
}

// messagesIn lists a message and all that are set inside it.
func messagesIn(m protoreflect.Message) []protoreflect.Message {
	list := []protoreflect.Message{m}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				list = append(list, messagesIn(v.List().Get(i).Message())...)
			}
		default:
			list = append(list, messagesIn(v.Message())...)
		}
		return true
	})
	return list
}

// FuzzDecode: no input panics or costs memory beyond its size, and what decodes survives encoding,
// and means the same.
func FuzzDecode(f *testing.F) {
	for _, c := range everyCommand() {
		f.Add(Encode(c))
	}
	f.Add([]byte{})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Command
		var err error
		if n := allocated(func() { c, err = Decode(b) }); n > mostAllocated(b) {
			t.Fatalf("decoding %d bytes takes %d", len(b), n)
		}
		if err != nil {
			if c != nil {
				t.Fatalf("% x gives %#v and %v", b, c, err)
			}
			return
		}
		entry := Encode(c)
		again, err := Decode(entry)
		if err != nil {
			t.Fatalf("%#v: %v", c, err)
		}
		if diff := equalCommands(c, again); diff != "" {
			t.Fatal(diff)
		}
		if !bytes.Equal(entry, Encode(again)) {
			t.Fatalf("%#v has two encodings", c)
		}
	})
}

// allocated is the memory that f asks for, and what others ask for meanwhile.
func allocated(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	f()
	metrics.Read(sample)
	return sample[0].Value.Uint64() - before
}

// mostAllocated bounds what reading may cost: two bytes of protobuf can be an empty message of some
// hundred, held twice, in lists that double as they grow. The constant is for what runs beside the
// test.
func mostAllocated(b []byte) uint64 { return 1<<20 + 1000*uint64(len(b)) }

// The inputs that a decoder makes most of cost no more than the fuzz targets let pass.
func TestDecodingCostsInProportion(t *testing.T) {
	const n = 1 << 20
	empty := bytes.Repeat([]byte{0x1a, 0}, n/2) // adjustments, or limits
	nested := func(tag byte, body []byte) []byte {
		return append(protowire.AppendVarint([]byte{1, tag}, uint64(len(body))), body...)
	}
	key := []byte{0x1a, 6, 0x12, 4, 0x08, 1, 0x10, 1}
	for name, b := range map[string][]byte{
		"empty adjustments": nested(0x22, empty),
		"adjustments":       nested(0x22, bytes.Repeat(key, n/len(key))),
		"empty limits":      nested(0x0a, empty),
		"sessions":          nested(0x1a, append([]byte{0x12}, protowire.AppendBytes(nil, make([]byte, n))...)),
		"zeros":             make([]byte, n),
	} {
		if got := allocated(func() { _, _ = Decode(b) }); got > mostAllocated(b) {
			t.Errorf("%s: decoding %d bytes takes %d", name, len(b), got)
		}
	}
}

func BenchmarkDecodeAdjust(b *testing.B) {
	entry := Encode(&Adjust{Term: 1, Batch: 1, Adjustments: []Adjustment{{Session: 1, Key: limit.HostConnections("api.example.com"), Delta: 1}}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(entry); err != nil {
			b.Fatal(err)
		}
	}
}

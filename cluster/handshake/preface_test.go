package handshake

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

func FuzzReadPreface(f *testing.F) {
	for _, p := range []*clusterpb.Preface{
		{Kind: KindRaft, Target: "a.0123456789abcdef", From: &clusterpb.Introduction{Node: "b", Cluster: "c1", GossipAddr: "127.0.0.1:1", LeadsTerm: 3}},
		{Kind: KindGRPC}, {Kind: KindProbe, From: &clusterpb.Introduction{Node: "b"}},
	} {
		b, err := AppendPreface(nil, p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(b, "what follows"...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0x16, 3, 1, 0, 200})
	f.Add([]byte("weir\x01\x02\xff"))
	f.Add([]byte("weir\x02\x00\x02\x08\x09"))
	f.Add([]byte("wei"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		p, err := ReadPreface(r)
		taken := len(b) - r.Len()
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			if taken > 7+maxPreface || len(b) >= 4 && string(b[:4]) != "weir" && taken > 4 {
				t.Errorf("%q: refused after %d bytes", b, taken)
			}
			return
		}
		if string(b[:5]) != "weir\x02" || taken != 7+int(binary.BigEndian.Uint16(b[5:7])) {
			t.Fatalf("%q is taken for a preface of %d bytes", b, taken)
		}
		again, err := AppendPreface(nil, p)
		if err != nil {
			t.Fatalf("%q was read as %+v, which can't be written: %v", b, p, err)
		}
		if back, err := ReadPreface(bytes.NewReader(again)); err != nil || !proto.Equal(back, p) {
			t.Fatalf("%+v was written and read as %+v, %v", p, back, err)
		}
		if slow, err := ReadPreface(iotest.OneByteReader(bytes.NewReader(b))); err != nil || !proto.Equal(slow, p) {
			t.Errorf("byte by byte it is %+v, %v, want %+v", slow, err, p)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	good, err := appendAnswer(nil, &clusterpb.Answer{Verdict: clusterpb.Verdict_VERDICT_ACCEPTED, Nonce: make([]byte, nonceBytes), From: &clusterpb.Introduction{Node: "a", Cluster: "c1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{TLSAlert, 3, 3, 0, 2, 2, 49})
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		a, err := readAnswer(r)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		if !bytes.HasPrefix(b, []byte(Greeting)) || len(a.GetNonce()) != nonceBytes || !plainText(a.GetFrom().GetNode()+a.GetFrom().GetCluster()) {
			t.Errorf("%q is taken for the answer %+v", b, a)
		}
	})
}

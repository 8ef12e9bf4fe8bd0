package sock

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// descriptor is a syscall.RawConn for any file descriptor. Each read is preceded by one piece of
// the input; the input's end follows the last.
type descriptor struct {
	fd     int
	feed   int // the pipe's other end, -1 without one
	pieces [][]byte
}

func (d *descriptor) Control(f func(uintptr)) error { f(uintptr(d.fd)); return nil }

func (d *descriptor) Write(f func(uintptr) bool) error { f(uintptr(d.fd)); return nil }

func (d *descriptor) Read(f func(uintptr) bool) error {
	if len(d.pieces) > 0 {
		n, err := unix.Write(d.feed, d.pieces[0])
		if err != nil && err != unix.EAGAIN { // the pipe is full
			return err
		}
		if d.pieces[0] = d.pieces[0][max(n, 0):]; len(d.pieces[0]) == 0 {
			d.pieces = d.pieces[1:]
		}
	} else if d.feed >= 0 {
		unix.Close(d.feed)
		d.feed = -1
	}
	f(uintptr(d.fd))
	return nil
}

// arrivingAt returns an inbuf that receives data in pieces of n bytes, and then a FIN.
func arrivingAt(t *testing.T, data []byte, n int) *Reader {
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(ends[1], true); err != nil {
		t.Fatal(err)
	}
	d := &descriptor{fd: ends[0], feed: ends[1], pieces: slices.Collect(slices.Chunk(data, n))}
	t.Cleanup(func() {
		unix.Close(d.fd)
		if d.feed >= 0 {
			unix.Close(d.feed)
		}
	})
	return &Reader{Conn: onDescriptor(d)}
}

func onDescriptor(d *descriptor) *Conn {
	s := &Conn{raw: d, pool: new(Buffers)}
	s.tryReadFunc, s.tryWriteFunc = s.tryRead, s.tryWrite
	return s
}

// FuzzReader: however the bytes arrive and are taken, they come in order, none twice and none lost,
// until more are unread than may be.
func FuzzReader(f *testing.F) {
	f.Add(uint32(100), uint16(7), []byte{0, 1, 2, 3, 200, 255})
	f.Add(uint32(200_000), uint16(60_000), []byte{255, 255, 0, 0, 129, 64})
	f.Add(uint32(90_000), uint16(33_000), []byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, size uint32, piece uint16, steps []byte) {
		data := make([]byte, size%(256<<10))
		for i := range data {
			data[i] = byte(i) ^ byte(i>>8)*31
		}
		in := arrivingAt(t, data, int(piece)+1)
		defer in.Release()
		at := 0
		for i := 0; ; i++ {
			b := in.Bytes()
			if !bytes.HasPrefix(data[at:], b) {
				t.Fatalf("at %d of %d: other bytes", at, len(data))
			}
			take := 0
			if len(steps) > 0 {
				take = len(b) * int(steps[i%len(steps)]) / 255
			}
			if take%2 == 0 {
				in.Skip(take)
			} else {
				in.Pass(take)
			}
			at += take
			switch err := in.Fill(); {
			case err == io.EOF && at+in.Len() == len(data):
				return
			case err == errFull && in.Len() == MaxBuffered:
				return
			case err != nil:
				t.Fatalf("at %d of %d, with %d unread: %v", at, len(data), in.Len(), err)
			}
		}
	})
}

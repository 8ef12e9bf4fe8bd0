package kit

import (
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/proto"
)

// Script is what a fuzz target does, byte by byte.
type Script []byte

// MaxSteps bounds what one script does.
const MaxSteps = 200

// Byte takes the next byte, 0 where there is none.
func (s *Script) Byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// Message takes a message behind its length; false says that there is none.
func (s *Script) Message(m proto.Message) bool {
	n, size := binary.Uvarint(*s)
	if size <= 0 || n > uint64(len(*s)-size) {
		*s = nil
		return false
	}
	b := (*s)[size : size+int(n)]
	*s = (*s)[size+int(n):]
	return proto.Unmarshal(b, m) == nil
}

// Step appends to a script: what to do, and with which byte or message.
func Step(b []byte, what byte, with any) []byte {
	b = append(slices.Clip(b), what) // others may go on from b
	switch with := with.(type) {
	case int:
		b = append(b, byte(with))
	case proto.Message:
		raw, err := proto.Marshal(with)
		if err != nil {
			panic(err)
		}
		b = append(binary.AppendUvarint(b, uint64(len(raw))), raw...)
	}
	return b
}

package config

import (
	"bytes"
	"sort"
)

// lineIndex finds a file's lines, and those that belong to a list of secrets. It is made in one
// pass over the file. Without it, each position would search the file anew: the time to read a
// config with many blocks, or many problems, would grow with their square.
type lineIndex struct {
	starts  []int // the offset of each line's first byte
	size    int
	secrets []secretSpan
}

// secretSpan is a list of secrets, from its name to its closing bracket, or to the file's end where
// there is none.
type secretSpan struct{ begin, end int }

func newLineIndex(src []byte) *lineIndex {
	x := &lineIndex{starts: []int{0}, size: len(src)}
	for at := 0; ; {
		i := bytes.IndexByte(src[at:], '\n')
		if i < 0 {
			break
		}
		at += i + 1
		x.starts = append(x.starts, at)
	}
	end := -1
	for at := 0; ; {
		i := bytes.Index(src[at:], []byte(secretList))
		if i < 0 {
			return x
		}
		begin := at + i
		if end < begin { // the last bracket found stands before this name
			if end = bytes.IndexByte(src[begin:], ']'); end < 0 {
				end = len(src)
			} else {
				end += begin
			}
		}
		x.secrets = append(x.secrets, secretSpan{begin, end})
		at = begin + len(secretList)
	}
}

// at returns the bounds of the line that holds the byte at offset, its line end left out, and
// whether the line begins inside a list of secrets.
func (x *lineIndex) at(offset int) (start, end int, secret bool) {
	n := sort.Search(len(x.starts), func(i int) bool { return x.starts[i] > offset })
	start, end = x.starts[n-1], x.size
	if n < len(x.starts) {
		end = x.starts[n] - 1
	}
	n = sort.Search(len(x.secrets), func(i int) bool { return x.secrets[i].begin >= start })
	return start, end, n > 0 && x.secrets[n-1].end >= start
}

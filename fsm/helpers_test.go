package fsm

import "github.com/weirproxy/weir/limit"

func pattern(s string) limit.Pattern {
	p, err := limit.ParsePattern(s)
	if err != nil {
		panic(err)
	}
	return p
}

func rule(p string, connections int64) limit.Limit {
	return limit.Limit{Pattern: pattern(p), Connections: connections}
}

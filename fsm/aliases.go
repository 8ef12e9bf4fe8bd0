package fsm

import "github.com/weirproxy/weir/limit"

// Names that other packages still use from here.
type (
	Key     = limit.Key
	Limit   = limit.Limit
	Pattern = limit.Pattern
	Queue   = limit.Queue
	Source  = limit.Source
	Table   = limit.Table
	Target  = limit.Target
)

// As above.
const (
	MaxConnections  = limit.MaxConnections
	MaxQueueSize    = limit.MaxQueueSize
	MaxQueueTimeout = limit.MaxQueueTimeout
	SourceAPI       = limit.SourceAPI
	SourceConfig    = limit.SourceConfig
	Unlimited       = limit.Unlimited
)

// As above.
var (
	ErrHost         = limit.ErrHost
	ErrInvalid      = limit.ErrInvalid
	HostConnections = limit.HostConnections
	NewTable        = limit.NewTable
	ParseHost       = limit.ParseHost
	ParsePattern    = limit.ParsePattern
	ParseTarget     = limit.ParseTarget
)

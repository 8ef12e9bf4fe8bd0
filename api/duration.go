package api

import (
	"fmt"
	"time"
)

// Duration is encoded as a string such as "2s" or "1m30s".
type Duration time.Duration

// String returns the duration as [time.Duration] formats it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration: write it as \"2s\" or \"500ms\"", b)
	}
	*d = Duration(v)
	return nil
}

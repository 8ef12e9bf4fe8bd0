package limit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Shares is what a rate is divided into for the log: a grant of k shares is k/Shares of the rate
// and of the burst, whatever these are. So a change of a limit moves no grant, and what all nodes
// hold is never more than the whole. Nodes are granted whole units, of [Limit.UnitShares] shares
// each.
const Shares int64 = 1_000_000

// Bounds of rates. They are part of what a valid entry of the log is: see [MaxConnections].
const (
	MaxRequests     int64 = 10_000_000        // a second, and at once
	MaxBandwidth    int64 = 1_000_000_000_000 // bytes a second, and at once
	MinByteBurst    int64 = 4 << 10
	leastByteBurst  int64 = 64 << 10 // of a limit that says nothing of its burst
	maxUnits        int64 = 1000
	minBytesPerUnit       = MinByteBurst
)

// TokenGrains is how many grains, in which levels of buckets are counted, one request takes. A byte
// takes one.
const TokenGrains int64 = 1_000_000

// Rate is how many requests may begin, by time. The zero Rate is none: no cap.
type Rate struct {
	Thousandths int64         // requests in Per, times 1,000
	Per         time.Duration // a second, a minute or an hour
	Burst       int64         // requests at once
}

// ParseRate reads "10/s", "600/m", "0.5/s" or "2.5/h", also with spaces around number and unit.
// burst 0 stands for what a second brings, at least 1. Errors wrap [ErrInvalid].
func ParseRate(s string, burst int64) (Rate, error) {
	number, unit, found := strings.Cut(s, "/")
	number, unit = strings.TrimSpace(number), strings.TrimSpace(unit)
	var r Rate
	switch {
	case !found:
		return Rate{}, invalidf("the rate %s has no unit: write requests a second, a minute or an hour, as in 10/s, 600/m or 0.5/s", shorten(s))
	case unit == "s":
		r.Per = time.Second
	case unit == "m":
		r.Per = time.Minute
	case unit == "h":
		r.Per = time.Hour
	default:
		return Rate{}, invalidf("the rate %s has the unit %s: write /s, /m or /h", shorten(s), shorten(unit))
	}
	n, err := parseDecimal(number, fmt.Sprint(MaxRequests, "/s"))
	if err != nil {
		return Rate{}, invalidf("the rate %s: %w", shorten(s), err)
	}
	r.Thousandths, r.Burst = n, burst
	if burst == 0 {
		r.Burst = max(1, min(int64(r.PerSecond()), MaxRequests))
	}
	return r, r.validate()
}

// parseDecimal reads a decimal number above 0 in thousandths, exactly. most is what it says of one
// that is too large.
func parseDecimal(s, most string) (int64, error) {
	scale := int64(1000)
	whole, fraction, dot := strings.Cut(s, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || dot && fraction == "" {
		if strings.HasPrefix(s, "-") {
			return 0, fmt.Errorf("it is negative: write a number above 0")
		}
		if errors.Is(err, strconv.ErrRange) {
			return 0, fmt.Errorf("it is too large to count: at most %s", most)
		}
		return 0, fmt.Errorf("%s is no number: write digits, with a point at most", shorten(s))
	}
	if int64(n) > math.MaxInt64/scale-1 {
		return 0, fmt.Errorf("it is too large to count: at most %s", most)
	}
	parts := int64(n) * scale
	for _, c := range []byte(fraction) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%s is no number: write digits, with a point at most", shorten(s))
		}
		if scale /= 10; scale == 0 && c != '0' {
			return 0, fmt.Errorf("%s has too many digits behind the point: write three at most", shorten(s))
		}
		parts += int64(c-'0') * scale
	}
	if parts == 0 {
		return 0, fmt.Errorf("it is 0: write a number above 0, or leave it out")
	}
	return parts, nil
}

// PerSecond is the rate in requests a second.
func (r Rate) PerSecond() float64 {
	if r.Per <= 0 {
		return 0
	}
	return float64(r.Thousandths) / 1000 / r.Per.Seconds()
}

// String is the rate as it is written: "10/s", "0.5/s".
func (r Rate) String() string {
	if r == (Rate{}) {
		return ""
	}
	unit := "s"
	switch r.Per {
	case time.Minute:
		unit = "m"
	case time.Hour:
		unit = "h"
	}
	return strconv.FormatFloat(float64(r.Thousandths)/1000, 'f', -1, 64) + "/" + unit
}

func (r Rate) validate() error {
	switch {
	case r == (Rate{}):
		return nil
	case r.Per != time.Second && r.Per != time.Minute && r.Per != time.Hour:
		return invalidf("the rate counts by %v: write /s, /m or /h", r.Per)
	case r.Thousandths <= 0:
		return invalidf("the rate is %s: write a number above 0", r)
	case r.PerSecond() > float64(MaxRequests):
		return invalidf("the rate %s is too large to count: at most %d/s", r, MaxRequests)
	case r.Burst < 1:
		return invalidf("the burst is %d: write at least 1, or a request could never begin", r.Burst)
	case r.Burst > MaxRequests:
		return invalidf("the burst %d is too large to count: at most %d", r.Burst, MaxRequests)
	}
	return nil
}

// Bandwidth is how many bytes may pass, in each direction for itself. The zero Bandwidth is none:
// no cap.
type Bandwidth struct {
	Upload   int64 // bytes a second from workers; 0: no cap
	Download int64 // bytes a second to workers; 0: no cap
	Burst    int64 // bytes at once; 0: what a second brings, at least 64 KiB
}

func (b Bandwidth) validate() error {
	switch {
	case b == (Bandwidth{}):
		return nil
	case b.Upload == 0 && b.Download == 0:
		return invalidf("a bandwidth has a burst and no rate: set upload, download or both")
	case b.Upload < 0 || b.Download < 0 || b.Burst < 0:
		return invalidf("a bandwidth is negative: write bytes a second, as in 10MB")
	case b.Upload > MaxBandwidth || b.Download > MaxBandwidth:
		return invalidf("a bandwidth is too large to count: at most %s a second", FormatBytes(MaxBandwidth))
	case b.Burst != 0 && b.Burst < MinByteBurst:
		return invalidf("the burst of a bandwidth is %s: write at least %s", FormatBytes(b.Burst), FormatBytes(MinByteBurst))
	case b.Burst > MaxBandwidth:
		return invalidf("the burst of a bandwidth is too large to count: at most %s", FormatBytes(MaxBandwidth))
	}
	return nil
}

func (b Bandwidth) of(r Resource) int64 {
	if r == Upload {
		return b.Upload
	}
	return b.Download
}

// byteUnits are what a number of bytes may be written with, the largest first.
var byteUnits = []struct {
	name  string
	bytes int64
}{
	{"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
}

// ParseBytes reads "1MB", "1.5GiB" or "4096B". Errors wrap [ErrInvalid].
func ParseBytes(s string) (int64, error) {
	text := strings.TrimSpace(s)
	for _, u := range byteUnits {
		number, found := strings.CutSuffix(text, u.name)
		if !found {
			continue
		}
		number = strings.TrimSpace(number)
		if strings.TrimRight(number, "0123456789.-+") != "" {
			break // another unit, such as kB or TB
		}
		thousandths, err := parseDecimal(number, FormatBytes(MaxBandwidth))
		if err != nil {
			return 0, invalidf("%s: %w", shorten(s), err)
		}
		if thousandths > MaxBandwidth*1000/u.bytes {
			return 0, invalidf("%s is too large to count: at most %s", shorten(s), FormatBytes(MaxBandwidth))
		}
		n := thousandths * u.bytes / 1000
		if n < 1 {
			return 0, invalidf("%s is less than a byte", shorten(s))
		}
		return n, nil
	}
	return 0, invalidf("%s has no unit that is known: write B, KB, MB, GB, KiB, MiB or GiB, as in 10MB", shorten(s))
}

// FormatBytes writes a number of bytes so that [ParseBytes] reads the same: "10MB", "64KiB".
func FormatBytes(n int64) string {
	for _, u := range byteUnits {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

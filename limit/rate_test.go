package limit

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	for _, c := range []struct {
		text  string
		burst int64
		want  Rate
		form  string
	}{
		{"10/s", 0, Rate{10_000, time.Second, 10}, "10/s"},
		{" 10/s ", 20, Rate{10_000, time.Second, 20}, "10/s"},
		{" 10 / s ", 0, Rate{10_000, time.Second, 10}, "10/s"},
		{"10 /s", 0, Rate{10_000, time.Second, 10}, "10/s"},
		{"600/m", 0, Rate{600_000, time.Minute, 10}, "600/m"},
		{"59/m", 0, Rate{59_000, time.Minute, 1}, "59/m"},
		{"0.5/s", 0, Rate{500, time.Second, 1}, "0.5/s"},
		{"0.5/s", 5, Rate{500, time.Second, 5}, "0.5/s"},
		{"2.5/h", 0, Rate{2500, time.Hour, 1}, "2.5/h"},
		{"0.001/h", 0, Rate{1, time.Hour, 1}, "0.001/h"},
		{"0.0010000/h", 0, Rate{1, time.Hour, 1}, "0.001/h"},
		{"007.50/m", 0, Rate{7500, time.Minute, 1}, "7.5/m"},
		{"10000000/s", 0, Rate{10_000_000_000, time.Second, MaxRequests}, "10000000/s"},
		{"36000000000/h", 1, Rate{36_000_000_000_000, time.Hour, 1}, "36000000000/h"},
		{"35999999999.999/h", 1, Rate{35_999_999_999_999, time.Hour, 1}, "35999999999.999/h"},
	} {
		got, err := ParseRate(c.text, c.burst)
		if err != nil || got != c.want || got.String() != c.form {
			t.Errorf("%q with burst %d: %+v (%s), %v, want %+v", c.text, c.burst, got, got, err, c.want)
			continue
		}
		if again, err := ParseRate(got.String(), got.Burst); err != nil || again != got {
			t.Errorf("%s is read as %+v, %v", got, again, err)
		}
	}
	if s := (Rate{}).String(); s != "" {
		t.Errorf("no rate is %q", s)
	}
}

func TestRateRefused(t *testing.T) {
	for _, c := range []struct {
		text  string
		burst int64
		want  string
	}{
		{"", 0, "has no unit"}, {"10", 0, "has no unit: write requests a second"}, {"10s", 0, "has no unit"},
		{"10/d", 0, `has the unit "d": write /s, /m or /h`}, {"10/", 0, `has the unit ""`}, {"10/S", 0, `has the unit "S"`}, {"10/s/s", 0, `has the unit "s/s"`},
		{"1 0/s", 0, "is no number"}, {"10 s", 0, "has no unit"}, {" / ", 0, `has the unit ""`},
		{"0/s", 0, "it is 0: write a number above 0, or leave it out"}, {"0.000/s", 0, "it is 0"}, {"0.0000/s", 0, "it is 0"},
		{"-1/s", 0, "it is negative"}, {"-0.5/s", 0, "it is negative"}, {"-/s", 0, "it is negative"},
		{"/s", 0, "is no number"}, {"./s", 0, "is no number"}, {".5/s", 0, "is no number"}, {"5./s", 0, "is no number"}, {"+5/s", 0, "is no number"},
		{"1e3/s", 0, "is no number"}, {"0x10/s", 0, "is no number"}, {"1_000/s", 0, "is no number"}, {"1,5/s", 0, "is no number"}, {"1.-5/s", 0, "is no number"},
		{"1.5.5/s", 0, "is no number"}, {"١/s", 0, "is no number"}, {"NaN/s", 0, "is no number"}, {"Inf/s", 0, "is no number"},
		{"0.0005/s", 0, "too many digits behind the point"}, {"1.2345/m", 0, "too many digits behind the point"},
		{"10000001/s", 0, "is too large to count: at most 10000000/s"}, {"36000000000.001/h", 1, "is too large to count"},
		{"99999999999999999999/s", 0, "it is too large to count"}, {"9223372036854775807/s", 0, "it is too large to count"},
		{"9223372036854775/s", 0, "too large to count"},
		{"10/s", -1, "the burst is -1: write at least 1"}, {"10/s", MaxRequests + 1, "the burst 10000001 is too large to count: at most 10000000"},
		{"10/s", math.MinInt64, "write at least 1"},
	} {
		got, err := ParseRate(c.text, c.burst)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q with burst %d: %+v, %v, want %q", c.text, c.burst, got, err, c.want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"1B": 1, "4096B": 4096, "1KB": 1000, "1KiB": 1024, "10MB": 10_000_000, "64KiB": 65536, "1.5GiB": 3 << 29, "0.5KiB": 512, "1.5B": 1,
		" 2 MB ": 2_000_000, "1000GB": MaxBandwidth, "931.322GiB": 999_999_383_011, "0.001KB": 1, "0.123GB": 123_000_000, "007MiB": 7 << 20,
		"1000000000000B": MaxBandwidth, "976562500KiB": MaxBandwidth,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestBytesRefused(t *testing.T) {
	for text, want := range map[string]string{
		"": "has no unit that is known", "10": "has no unit that is known: write B, KB, MB", "10 ": "has no unit", "10M": "has no unit", "10kB": "has no unit",
		"1TB": "has no unit", "1TiB": "has no unit", "10mb": "has no unit", "1Mbit": "has no unit", "aMB": "has no unit", "1e3MB": "has no unit",
		"0B": "it is 0", "0.0GB": "it is 0", "-1MB": "it is negative", "-0.5MB": "it is negative",
		"MB": "is no number", "B": "is no number", ".5MB": "is no number", "1.MB": "is no number", "+1MB": "is no number", "1-2MB": "is no number", "1.5.5MB": "is no number",
		"0.5B": "is less than a byte", "0.0001GB": "too many digits",
		"1000.001GB": "is too large to count: at most 1000GB", "931.323GiB": "is too large to count", "1000000000001B": "is too large to count",
		"99999999999999999999B": "it is too large to count", "9223372036854775807B": "it is too large to count",
	} {
		got, err := ParseBytes(text)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v, want %q", text, got, err, want)
		}
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{
		1: "1B", 1000: "1KB", 1024: "1KiB", 1023: "1023B", 10_000_000: "10MB", 3 << 29: "1536MiB", 1 << 30: "1GiB", 1e9: "1GB", 65536: "64KiB",
		MaxBandwidth: "1000GB", 1_024_000: "1000KiB", 0: "0B",
	} {
		if got := FormatBytes(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func TestBandwidthIsValidated(t *testing.T) {
	for _, b := range []Bandwidth{
		{}, {Upload: 1}, {Download: 1}, {Upload: MaxBandwidth, Download: MaxBandwidth, Burst: MaxBandwidth}, {Download: 5, Burst: MinByteBurst},
	} {
		if err := b.validate(); err != nil {
			t.Errorf("%+v: %v", b, err)
		}
	}
	for _, c := range []struct {
		b    Bandwidth
		want string
	}{
		{Bandwidth{Burst: 5000}, "has a burst and no rate"},
		{Bandwidth{Upload: -1}, "is negative"}, {Bandwidth{Upload: 1, Download: -1}, "is negative"}, {Bandwidth{Upload: 1, Burst: -1}, "is negative"},
		{Bandwidth{Upload: MaxBandwidth + 1}, "too large to count: at most 1000GB a second"}, {Bandwidth{Download: math.MaxInt64}, "too large to count"},
		{Bandwidth{Upload: 1, Burst: MinByteBurst - 1}, "is 4095B: write at least 4KiB"}, {Bandwidth{Upload: 1, Burst: 1}, "is 1B: write at least 4KiB"},
		{Bandwidth{Upload: 1, Burst: MaxBandwidth + 1}, "burst of a bandwidth is too large"},
	} {
		if err := c.b.validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.b, err, c.want)
		}
	}
}

// What a limit makes of each resource: how much can be granted, how fast it fills, how large it is.
func TestMeasuresOfALimit(t *testing.T) {
	l := Limit{
		Pattern: pattern("a.b"), Connections: 7,
		Requests:  Rate{Thousandths: 30_000, Per: time.Minute, Burst: 3},
		Bandwidth: Bandwidth{Upload: 1000, Download: 2 << 20},
	}
	for _, c := range []struct {
		r                                     Resource
		capacity, burst, units, unit, filling int64
	}{
		{Connections, 7, 0, 0, Shares, 0},
		{Requests, Shares, 3 * TokenGrains, 3, 333_333, TokenGrains / 2},
		{Upload, Shares, leastByteBurst, 16, 62_500, 1000},
		{Download, Shares, 2 << 20, 512, 1953, 2 << 20},
	} {
		if n := l.Capacity(c.r); n != c.capacity || !l.Caps(c.r) {
			t.Errorf("%v: %d can be granted, want %d", c.r, n, c.capacity)
		}
		if n := l.BurstGrains(c.r); n != c.burst {
			t.Errorf("%v: %d at once, want %d", c.r, n, c.burst)
		}
		if n := l.Units(c.r); n != c.units {
			t.Errorf("%v: %d units, want %d", c.r, n, c.units)
		}
		if n := l.UnitShares(c.r); n != c.unit {
			t.Errorf("%v: %d shares a unit, want %d", c.r, n, c.unit)
		}
		if n := l.PerSecond(c.r); c.r.IsRate() && n != float64(c.filling) {
			t.Errorf("%v: %v a second, want %d", c.r, n, c.filling)
		}
	}
	for name, none := range map[string]*Limit{"no limit": nil, "no cap": {Connections: Unlimited}} {
		for _, r := range Resources {
			if none.Caps(r) || none.Capacity(r) != Unlimited || none.BurstGrains(r) != 0 || none.Units(r) != 0 || none.PerSecond(r) != 0 {
				t.Errorf("%s caps %v", name, r)
			}
		}
	}
	// All units together are never more than the whole, and each holds a request, or 4 KiB.
	for _, burst := range []int64{1, 2, 3, 999, 1000, 1001, MaxRequests} {
		l.Requests.Burst, l.Bandwidth.Burst = burst, max(burst, MinByteBurst)
		for _, r := range []Resource{Requests, Upload} {
			least := TokenGrains
			if r == Upload {
				least = MinByteBurst
			}
			units := l.Units(r)
			if units < 1 || units > maxUnits || units*l.UnitShares(r) > Shares || l.BurstGrains(r)/units < least {
				t.Errorf("%v with burst %d: %d units of %d shares", r, burst, units, l.UnitShares(r))
			}
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"10/s", "600/m", "0.5/s", "2.5/h", "-1/s", "1e3/s", "10", "99999999999999999999/s", "36000000000/h"} {
		f.Add(s, int64(0))
		f.Add(s, int64(7))
	}
	f.Fuzz(func(t *testing.T, s string, burst int64) {
		r, err := ParseRate(s, burst)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if err := r.validate(); err != nil || r.Burst < 1 || burst != 0 && r.Burst != burst {
			t.Fatalf("%q with burst %d gives %+v: %v", s, burst, r, err)
		}
		if again, err := ParseRate(r.String(), r.Burst); err != nil || again != r {
			t.Fatalf("%q gives %+v, written %s, read as %+v, %v", s, r, r, again, err)
		}
		l := Limit{Pattern: pattern("a"), Connections: Unlimited, Requests: r}
		if err := l.Validate(); err != nil || l.PerSecond(Requests) <= 0 || l.BurstGrains(Requests) < TokenGrains {
			t.Fatalf("%q makes a limit of %v a second: %v", s, l.PerSecond(Requests), err)
		}
	})
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"1B", "10MB", "1.5GiB", "64KiB", "931.322GiB", "-1MB", "10kB", "0.5B", "99999999999999999999B"} {
		f.Add(s, int64(1<<20))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		n, err := ParseBytes(s)
		switch {
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Fatalf("%q: %v", s, err)
		case err == nil && (n < 1 || n > MaxBandwidth):
			t.Fatalf("%q is %d", s, n)
		case err == nil:
			size = n
		}
		if size < 1 || size > MaxBandwidth {
			return
		}
		if again, err := ParseBytes(FormatBytes(size)); err != nil || again != size {
			t.Fatalf("%d is written %s, read as %d, %v", size, FormatBytes(size), again, err)
		}
	})
}

package lease

import (
	"math"
	"time"

	"github.com/weirproxy/weir/limit"
)

// bucketDrift is how much slower buckets fill than they might: the clocks of two nodes, between
// which a unit goes to and fro, run apart by less.
const bucketDrift = 1.0 / 1000

// bucket is a node's part of one rate: the sum of the token buckets of the units that it holds. It
// is a value; the time is an argument. What it counts is grains: see [limit.TokenGrains].
//
// In any time t no more than size + fill*t is taken from it, whatever is put in and taken out
// otherwise: units bring at most what was taken out with them, and leave their part behind.
type bucket struct {
	level float64       // what may be taken, at the moment below
	at    time.Duration // on the node's clock
	fill  float64       // grains a nanosecond
	size  float64       // the most that it holds

	// For receipts. What has come in is counted in units of the bucket that has shrunk to scale since
	// it began.
	life  uint32  // receipts of another one are void
	scale float64 // what has been left of it when parts of it left
	risen float64 // what has come in, divided by the scale then
}

// receipt says from what grains were taken, to give them back.
type receipt struct {
	life  uint32
	scale float64
	risen float64
	level float64 // that was left
	size  float64
}

// receipt notes what is left after something was taken.
func (b *bucket) receipt() receipt { return receipt{b.life, b.scale, b.risen, b.level, b.size} }

// giveBack returns grains that were taken, as far as the bucket would have had room for them all
// the time: had they not been taken, the rest would have run over. The level has been no higher
// meanwhile than if nothing had been taken after them. Where a part of the bucket has left since,
// as much of what comes back would have left with it.
func (b *bucket) giveBack(now time.Duration, r receipt, grains float64) {
	b.settle(now)
	if b.life != r.life {
		return
	}
	room := r.size - r.level - (b.risen-r.risen)*r.scale
	if back := min(grains, room) * b.scale / r.scale; back > 0 {
		b.put(back)
	}
}

const (
	// leastScale and mostRisen bound the counts behind receipts: beyond, they would not be exact.
	leastScale = 1e-6
	mostRisen  = 1e12
)

// void makes all receipts worthless.
func (b *bucket) void() {
	b.life++
	b.scale, b.risen = 1, 0
}

// rise adds to the level what there is room for.
func (b *bucket) rise(n float64) {
	if n = min(n, b.size-b.level); n > 0 {
		b.level += n
		b.risen += n / b.scale
		if b.risen > mostRisen {
			b.void()
		}
	}
}

// settle lets the time up to now fill the bucket. Time in which a process was stopped fills it like
// any other, at most to its size. A time before the last one changes nothing.
func (b *bucket) settle(now time.Duration) {
	if now <= b.at {
		return
	}
	b.rise(float64(now-b.at) * b.fill)
	b.at = now
}

// slack is what dividing a full bucket among units may round away, in grains. Even with the most
// units that there are it is less than bucketDrift takes from one token.
const slack = 1

// has reports whether n grains can be taken.
func (b *bucket) has(now time.Duration, n float64) bool {
	b.settle(now)
	return b.level >= n-slack
}

// whole is how many whole grains can be taken.
func (b *bucket) whole(now time.Duration) float64 {
	b.settle(now)
	return math.Floor(b.level)
}

// put takes in what came with a grant, or goes back.
func (b *bucket) put(n float64) { b.rise(n) }

// resize changes what the bucket is a part of. It never fills: what no longer fits is lost, and
// receipts with it.
func (b *bucket) resize(now time.Duration, fill, size float64) {
	b.settle(now)
	b.at = max(b.at, now)
	if size < b.size*(1-1e-9) || b.scale == 0 {
		b.void()
	}
	b.fill, b.size = fill, size
	b.level = min(b.level, size)
}

// leave takes a part of the bucket out, and of the level what goes with it: its part, or, if whole,
// as much as there is room for. The rest of the bucket must be resized before it is filled again.
func (b *bucket) leave(now time.Duration, part float64, whole bool) (grains int64) {
	b.settle(now)
	gone := max(b.level, 0) * part
	if whole {
		gone = min(max(b.level, 0), b.size*part)
	}
	gone = math.Floor(gone)
	b.level -= gone
	b.size *= 1 - part
	if b.scale *= 1 - part; b.scale < leastScale {
		b.void()
	}
	return int64(gone)
}

// until is when n grains can be taken, if nobody takes any before; never where the bucket is too
// small for them or does not fill.
func (b *bucket) until(n float64) (at time.Duration, ever bool) {
	n -= slack
	switch {
	case b.level >= n:
		return b.at, true
	case n > b.size || b.fill <= 0:
		return 0, false
	}
	// A nanosecond more than the division says, for what it rounds away.
	return b.at + time.Duration(math.Ceil((n-b.level)/b.fill)) + 1, true
}

// partOf is what so many shares of a rate are: the whole units among them.
func partOf(l *limit.Limit, r limit.Resource, shares int64) (fill, size float64) {
	all := l.Units(r)
	if all == 0 {
		return 0, 0
	}
	units := float64(l.WholeUnits(r, shares))
	// Multiplied first: the size of whole units is then exact.
	fill = l.PerSecond(r) * units / float64(all) * (1 - bucketDrift) / float64(time.Second)
	return fill, float64(l.BurstGrains(r)) * units / float64(all)
}

// drawMeter measures what has been drawn from a bucket lately, in grains a second, and what has
// passed above it, because the limit only reports.
type drawMeter struct {
	since    time.Duration // the present interval's beginning
	drawn    float64       // in it
	past     [3]float64    // in the intervals before, the newest first
	over     float64       // passed above the bucket, in the present interval
	overPast [3]float64    // in those before
}

// drawInterval is how long one interval of a drawMeter is. Shorter follows a demand that moves
// sooner, and takes more for a change that is chance.
const drawInterval = 250 * time.Millisecond

func (d *drawMeter) add(now time.Duration, n float64) {
	d.roll(now)
	d.drawn += n
}

// exceed adds what passes above the bucket; below 0 where it has had its part of the bucket after
// all, or has not passed.
func (d *drawMeter) exceed(now time.Duration, n float64) {
	d.roll(now)
	d.over += n
}

// roll ends the intervals that are over.
func (d *drawMeter) roll(now time.Duration) {
	over := int64((now - d.since) / drawInterval)
	if over > int64(len(d.past)) {
		*d = drawMeter{since: now}
		return
	}
	for range over {
		d.past[2], d.past[1], d.past[0], d.drawn = d.past[1], d.past[0], d.drawn, 0
		d.overPast[2], d.overPast[1], d.overPast[0], d.over = d.overPast[1], d.overPast[0], d.over, 0
		d.since += drawInterval
	}
}

// lastSecond is what passed in the last second or somewhat less, a second. It is for who looks:
// the first request after a silence is one a second, and not, as [drawMeter.lately] takes it, the
// beginning of four. What goes back just after its interval has ended is missing in the next one,
// which may be the only one left.
func (d *drawMeter) lastSecond(now time.Duration) float64 {
	d.roll(now)
	over := d.over + d.overPast[0] + d.overPast[1] + d.overPast[2]
	return max(0, d.drawn+d.past[0]+d.past[1]+d.past[2]+over) / (3*drawInterval + now - d.since).Seconds()
}

// lately is the demand of about the last second; 0 where nothing was drawn in the last half second.
// What has just begun is taken to go on as it began, so that units are asked for in time.
func (d *drawMeter) lately(now time.Duration) float64 {
	d.roll(now)
	if d.drawn+d.past[0]+d.past[1] <= 0 {
		return 0
	}
	if d.past[1]+d.past[2] == 0 { // it has just begun
		return (d.drawn + d.past[0]) / (drawInterval + now - d.since).Seconds()
	}
	return (d.drawn + d.past[0] + d.past[1] + d.past[2]) / (3*drawInterval + now - d.since).Seconds()
}

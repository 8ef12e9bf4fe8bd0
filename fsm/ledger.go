package fsm

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"

	"github.com/weirproxy/weir/limit"
)

// ledger holds the grants: per key one compact entry, since there may be very many keys and each is
// held by few sessions. A key of connections without grants has none. One of a rate keeps its entry
// for the level, until it is forgotten.
type ledger map[limit.Key]*holding

// holding is who holds slots of one key, or shares, where that is of a rate.
type holding struct {
	total int64          // the sum of slots
	level int64          // of a rate: the grains in the shares that nobody holds
	burst int64          // of a rate: the largest burst since it was first held, in grains
	slots []SessionSlots // by session id, each > 0
}

func (h *holding) find(session uint64) (int, bool) {
	return slices.BinarySearchFunc(h.slots, session, func(s SessionSlots, id uint64) int { return cmp.Compare(s.Session, id) })
}

// of is one session's grant. A key without an entry has a nil holding.
func (h *holding) of(session uint64) int64 {
	if h == nil {
		return 0
	}
	if i, ok := h.find(session); ok {
		return h.slots[i].Slots
	}
	return 0
}

// sum is what all sessions hold.
func (h *holding) sum() int64 {
	if h == nil {
		return 0
	}
	return h.total
}

// levelUnder is the level of a rate's free shares while l is in force. A key that has never been
// leased is full.
func (h *holding) levelUnder(l *limit.Limit, r limit.Resource) int64 {
	if h == nil {
		return l.BurstGrains(r)
	}
	return min(h.level, sizeOf(l, r, limit.Shares-h.total))
}

// putBack adds the level that comes back with shares, which have left their holder already, and
// answers how much of it was kept: never more than these shares hold under the limit in force.
// Without a limit it is lost.
func (h *holding) putBack(l *limit.Limit, r limit.Resource, shares, level int64) int64 {
	if h == nil || shares == 0 || !l.Caps(r) {
		return 0
	}
	level = min(max(level, 0), sizeOf(l, r, shares))
	// What was free before is cut to its own size first, or the shares that came would make room for
	// what a lower limit has taken away.
	h.level = min(h.level, sizeOf(l, r, limit.Shares-h.total-shares)) + level
	return level
}

// takeOut takes the level that goes with shares, which are not granted yet: as much of what is free
// as they hold, because a request needs a whole token. What is left is cut to the size of what is
// free then.
func (h *holding) takeOut(l *limit.Limit, r limit.Resource, shares int64) int64 {
	free := limit.Shares - h.total
	level := h.levelUnder(l, r)
	taken := min(level, sizeOf(l, r, shares))
	h.level = min(level-taken, sizeOf(l, r, free-shares))
	return taken
}

// noteBurst takes note of the burst under which a rate is held.
func (h *holding) noteBurst(l *limit.Limit, r limit.Resource) {
	h.burst = max(h.burst, l.BurstGrains(r))
}

// sizeOf is the most that some shares of a rate hold, in grains: what the whole units among them
// hold, as on a node. Shares that make no unit hold nothing, or they would keep their part of the
// burst while the units, which are all of the rate, are full.
func sizeOf(l *limit.Limit, r limit.Resource, shares int64) int64 {
	return part(l.BurstGrains(r), l.WholeUnits(r, shares), l.Units(r))
}

// part is n·k/of, rounded down, where 0 ≤ k ≤ of, whatever n·k comes to.
func part(n, k, of int64) int64 {
	if k <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(n), uint64(k))
	q, _ := bits.Div64(hi, lo, uint64(of))
	return int64(q)
}

// entry returns the key's entry; where there is none, it makes one.
func (g ledger) entry(key limit.Key) *holding {
	h := g[key]
	if h == nil {
		h = &holding{}
		g[key] = h
	}
	return h
}

// add changes a session's grant of a key by delta, which must leave it ≥ 0.
func (g ledger) add(session uint64, key limit.Key, delta int64) { g.addTo(g[key], session, key, delta) }

// addTo is add where the key's entry, perhaps nil, has been looked up already.
func (g ledger) addTo(h *holding, session uint64, key limit.Key, delta int64) {
	if delta == 0 {
		return
	}
	if h == nil {
		h = g.entry(key)
	}
	i, found := h.find(session)
	if !found {
		h.slots = slices.Insert(h.slots, i, SessionSlots{Session: session})
	}
	h.slots[i].Slots += delta
	h.total += delta
	if h.slots[i].Slots == 0 {
		h.slots = slices.Delete(h.slots, i, i+1)
	}
	if len(h.slots) == 0 {
		h.slots = nil
		if !key.Resource.IsRate() {
			delete(g, key)
		}
	}
}

// forget removes a key's entry, unless somebody holds a part of it.
func (g ledger) forget(key limit.Key) {
	if h := g[key]; h != nil && h.total == 0 {
		delete(g, key)
	}
}

// noteBursts takes note of the burst of each rate that is held. To find a key's limit takes long, so
// it is found only where the burst can be larger than before.
func (g ledger) noteBursts(t *limit.Table) {
	var largest [limit.ScopeConnection + 1][limit.Download + 1]int64
	limits := t.Limits()
	for i := range limits {
		for r, most := range largest[limits[i].Pattern.Scope()] {
			largest[limits[i].Pattern.Scope()][r] = max(most, limits[i].BurstGrains(limit.Resource(r)))
		}
	}
	if largest == [limit.ScopeConnection + 1][limit.Download + 1]int64{} {
		return
	}
	for key, h := range g {
		if h.total > 0 && h.burst < largest[key.Scope][key.Resource] {
			h.noteBurst(t.Governing(key), key.Resource)
		}
	}
}

// free takes everything from the sessions given and lists it by session, then key. Shares of a rate
// come back empty: nobody says what was left in them.
func (g ledger) free(sessions map[uint64]bool, t *limit.Table) []Adjustment {
	var freed []Adjustment
	for key, h := range g {
		for _, s := range h.slots {
			if sessions[s.Session] {
				freed = append(freed, Adjustment{Session: s.Session, Key: key, Delta: s.Slots})
			}
		}
	}
	slices.SortFunc(freed, compareAdjustments)
	for i := range freed {
		key, h := freed[i].Key, g[freed[i].Key]
		g.addTo(h, freed[i].Session, key, -freed[i].Delta)
		if key.Resource.IsRate() {
			h.putBack(t.Governing(key), key.Resource, freed[i].Delta, 0)
		}
	}
	return freed
}

// heldAbove lists what one session holds beyond what known says of each key, by key.
func (g ledger) heldAbove(session uint64, known map[limit.Key]int64) []Adjustment {
	var above []Adjustment
	for key, h := range g {
		if n := h.of(session); n > 0 && n > known[key] {
			above = append(above, Adjustment{Session: session, Key: key, Delta: n - known[key]})
		}
	}
	slices.SortFunc(above, compareAdjustments)
	return above
}

// keys lists the keys that have an entry, sorted.
func (g ledger) keys() []limit.Key {
	return slices.SortedFunc(maps.Keys(g), limit.Key.Compare)
}

func compareAdjustments(a, b Adjustment) int {
	return cmp.Or(cmp.Compare(a.Session, b.Session), a.Key.Compare(b.Key))
}

package resolve

import "sync/atomic"

// Result is how a lookup ended, as the metrics count it.
type Result uint8

// The results. Their order is that of [Result.String].
const (
	ResultRemembered Result = iota // from an answer that had not expired
	ResultHosts                    // from the hosts file, or localhost
	ResultOK
	ResultNotFound
	ResultTimeout
	ResultError
	ResultAbandoned // the client left, or its time was over

	resultCount
)

var resultNames = [resultCount]string{"remembered", "hosts", "ok", "not_found", "timeout", "error", "abandoned"}

// String is the result's name in the metrics.
func (r Result) String() string { return resultNames[r] }

// resultOf is the result of a lookup that ended with e.
func resultOf(e *entry) Result {
	switch {
	case e.err == nil:
		return ResultOK
	case e.err.IsNotFound:
		return ResultNotFound
	case e.err.IsTimeout:
		return ResultTimeout
	}
	return ResultError
}

// stats are counted as lookups go by.
type stats struct {
	results [resultCount]atomic.Int64
	queries atomic.Int64
}

// Stats are a resolver's numbers. Lookups and Queries only grow.
type Stats struct {
	Lookups  map[string]int64 // by [Result]; every result is in it
	Queries  int64            // to name servers
	InFlight int              // lookups that wait for name servers, now
	Names    int              // in the cache, expired ones included
}

// Stats returns the numbers as they are now.
func (r *Resolver) Stats() Stats {
	s := Stats{Lookups: make(map[string]int64, resultCount), Queries: r.stats.queries.Load(), InFlight: len(r.places), Names: r.cache.names()}
	for i := range r.stats.results {
		s.Lookups[Result(i).String()] = r.stats.results[i].Load()
	}
	for i := range r.cache.shards {
		s.Lookups[ResultRemembered.String()] += r.cache.shards[i].remembered.Load()
	}
	return s
}

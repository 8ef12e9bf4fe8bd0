package resolve

import (
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxChain bounds the aliases (CNAME) that are followed within one answer.
const maxChain = 16

// kind is the outcome of one question.
type kind uint8

const (
	kindSilent kind = iota // no answer in time, or none at all
	kindFailed             // the server could not answer, or its answer can't be used
	kindNoName             // the name does not exist
	kindNoData             // the name has no address of this family
	kindAddrs
)

// result is the outcome of one question: the addresses of one family of a name.
type result struct {
	kind  kind
	addrs []netip.Addr
	ttl   time.Duration // of the addresses, or of their absence
}

// conclusive reports whether another server need not be asked.
func (r result) conclusive() bool { return r.kind >= kindNoName }

// read takes a question's result from the message that answers it. Records that do not belong to
// the name, or to an alias that leads away from it, are ignored. The TTL is the least of all
// records on the way.
func read(m *dns.Msg, q dns.Question) result {
	switch m.Rcode {
	case dns.RcodeSuccess:
	case dns.RcodeNameError:
		return result{kind: kindNoName, ttl: negativeTTL(m)}
	default:
		return result{kind: kindFailed}
	}
	r := result{kind: kindAddrs, ttl: seconds(1<<31 - 1)}
	name := q.Name
	for range maxChain {
		alias := ""
		for _, record := range m.Answer {
			h := record.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, name) {
				continue
			}
			switch record := record.(type) {
			case *dns.A:
				r.take(record.A, q.Qtype == dns.TypeA, h.Ttl)
			case *dns.AAAA:
				r.take(record.AAAA, q.Qtype == dns.TypeAAAA, h.Ttl)
			case *dns.CNAME:
				alias = record.Target
				r.ttl = min(r.ttl, seconds(h.Ttl))
			}
		}
		switch {
		case len(r.addrs) > 0:
			return r
		case alias == "" && m.Truncated, alias == "" && isReferral(m):
			return result{kind: kindFailed}
		case alias == "":
			return result{kind: kindNoData, ttl: min(r.ttl, negativeTTL(m))}
		}
		name = alias
	}
	return result{kind: kindFailed} // a loop
}

// take adds an address, where it is of the family that was asked for.
func (r *result) take(ip []byte, wanted bool, ttl uint32) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok || !wanted || len(r.addrs) >= maxAddrs {
		return
	}
	r.ttl = min(r.ttl, seconds(ttl))
	r.addrs = append(r.addrs, addr.Unmap())
}

// isReferral reports an answer that says nothing of the name: the server does not recurse and only
// names others that may know.
func isReferral(m *dns.Msg) bool {
	return !m.Authoritative && !m.RecursionAvailable && len(m.Answer) == 0
}

// negativeTTL is how long the absence of a name or of its addresses lasts (RFC 2308, section 5); 0
// where the answer does not say.
func negativeTTL(m *dns.Msg) time.Duration {
	for _, record := range m.Ns {
		if soa, ok := record.(*dns.SOA); ok {
			return min(seconds(soa.Hdr.Ttl), seconds(soa.Minttl))
		}
	}
	return 0
}

// seconds is a TTL. One with the highest bit set means 0 (RFC 2181, section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

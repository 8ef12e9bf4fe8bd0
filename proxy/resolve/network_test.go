package resolve

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// never is a delay for an answer that does not come.
const never = time.Hour

// wire is a fake network: what each server answers, and after how long.
type wire struct {
	t testing.TB

	mu      sync.Mutex
	answers map[string]step // by "server name type", or less: "name type", "type", ""
	queries []string        // all, in the order in which they came
	started time.Time
	at      []time.Duration // when each came
}

type step struct {
	after time.Duration
	rcode int
	lines []string
	err   error
}

func (w *wire) set(key string, after time.Duration, rcode int, lines ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[key] = step{after: after, rcode: rcode, lines: lines}
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queries)
}

// to counts the queries to one server.
func (w *wire) to(server string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.queries {
		if strings.HasPrefix(q, server+" ") {
			n++
		}
	}
	return n
}

func (w *wire) ask(ctx context.Context, query query) (*dns.Msg, error) {
	server, name, qtype := query.to.Addr().String(), query.q.Name, dns.TypeToString[query.q.Qtype]
	w.mu.Lock()
	w.queries = append(w.queries, server+" "+name+" "+qtype)
	w.at = append(w.at, time.Since(w.started))
	var s step
	for _, key := range []string{server + " " + name + " " + qtype, server + " " + qtype, server, name + " " + qtype, qtype, ""} {
		found := false
		if s, found = w.answers[key]; found {
			break
		}
	}
	w.mu.Unlock()
	// No timer that is due at once: in a bubble, receiving from it runs it on the receiver's thread,
	// beside the timers that the bubble itself runs, and the race detector of Go 1.26, which has one
	// context for both, may crash.
	if s.after > 0 {
		timer := time.NewTimer(s.after)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.err != nil {
		return nil, s.err
	}
	lines := append([]string(nil), s.lines...)
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], "NAME", name)
	}
	return message(w.t, s.rcode, lines...), nil
}

// bubble runs a test in virtual time with a resolver that asks the given servers over a fake
// network. IPv4 has addresses and IPv6 has none unless the test says otherwise.
func bubble(t *testing.T, conf string, f func(*testing.T, *Resolver, *wire)) {
	dir := t.TempDir()
	hosts, resolvConf := filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf")
	write(t, hosts, "10.9.9.9 fixed.test short\n")
	write(t, resolvConf, conf)
	synctest.Test(t, func(t *testing.T) {
		w := &wire{t: t, started: time.Now(), answers: map[string]step{
			"A": {lines: []string{"NAME 60 IN A 10.0.0.1"}}, "AAAA": {lines: []string{soa}},
		}}
		r := newResolver(Config{TTLMax: time.Minute, Hosts: hosts, ResolvConf: resolvConf})
		r.ask, r.routed = w.ask, everywhere
		r.lookAtFiles()
		f(t, r, w)
		r.Close()
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const oneServer, twoServers = "nameserver 10.0.0.53\n", "nameserver 10.0.0.53\nnameserver 10.0.0.54\n"

// lookup resolves a name and says what came, and after how long.
func lookup(t *testing.T, r *Resolver, name string) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	a, err := r.Lookup(t.Context(), name)
	return show(a, err), time.Since(began)
}

func show(a Addrs, err error) string {
	var dns *net.DNSError
	switch {
	case err == nil:
		return strings.Join(listed(a), " ")
	case !errors.As(err, &dns):
		return err.Error()
	case dns.IsNotFound:
		return "not found"
	case dns.IsTimeout:
		return "timeout"
	}
	return "failed"
}

// expect resolves a name and checks what came, and that it took as long.
func expect(t *testing.T, r *Resolver, name, want string, within time.Duration) {
	t.Helper()
	if got, took := lookup(t, r, name); got != want || took != within {
		t.Errorf("%s is %q after %v, want %q after %v", name, got, took, want, within)
	}
}

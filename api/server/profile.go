package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"slices"
	"strconv"
	"time"
)

// pathProfiles lists the profiles. Their names are those of net/http/pprof, which is not used
// because it registers itself in http.DefaultServeMux, needs no token, and answers errors in plain
// text.
const pathProfiles = "/debug/pprof/"

// Durations of profiles that take time. WriteTimeout ends an answer after a minute.
const (
	profileSeconds     = 30
	maxProfileSeconds  = 50
	traceSeconds       = 1
	maxTraceSeconds    = 5 // a busy node's trace grows by some 10 MB a second
	profileContentType = "application/octet-stream"
)

// profiles lists the profiles.
func (s *Server) profiles(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "profile?seconds=%d\ntrace?seconds=%d\n", profileSeconds, traceSeconds)
	for _, name := range profileNames() {
		fmt.Fprintln(w, name)
	}
	return nil
}

func profileNames() (names []string) {
	for _, p := range pprof.Profiles() {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	return names
}

// profile answers with one profile, in the format of pprof, or of go tool trace.
func (s *Server) profile(w http.ResponseWriter, r *http.Request) error {
	switch name := r.PathValue("name"); name {
	case "profile":
		return s.recorded(w, r, profileSeconds, maxProfileSeconds, pprof.StartCPUProfile, pprof.StopCPUProfile)
	case "trace":
		return s.recorded(w, r, traceSeconds, maxTraceSeconds, trace.Start, trace.Stop)
	default:
		return snapshotProfile(w, r, name)
	}
}

// recorded records for the requested number of seconds.
func (s *Server) recorded(
	w http.ResponseWriter, r *http.Request, usual, most int, start func(io.Writer) error, stop func(),
) error {
	q, err := query(r, "seconds")
	if err != nil {
		return err
	}
	seconds, err := queryNumber(q, "seconds", usual, 1, most)
	if err != nil {
		return err
	}
	var recording bytes.Buffer
	if err := start(&recording); err != nil {
		return problemf(http.StatusConflict, "profile_in_progress", "another profile of the kind is being taken: wait for its end")
	}
	timer := time.NewTimer(time.Duration(seconds) * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
	stop()
	writeProfile(w, r.PathValue("name"), recording.Bytes())
	return nil
}

// snapshotProfile answers with the runtime's present counts.
func snapshotProfile(w http.ResponseWriter, r *http.Request, name string) error {
	p := pprof.Lookup(name)
	if p == nil {
		return problemf(http.StatusNotFound, "no_such_profile", "there is no profile %q: %s lists the profiles", name, pathProfiles)
	}
	q, err := query(r, "debug", "gc")
	if err != nil {
		return err
	}
	debug, err := queryNumber(q, "debug", 0, 0, 2)
	if err != nil {
		return err
	}
	collect, err := queryBool(q, "gc")
	if err != nil {
		return err
	}
	if collect {
		runtime.GC()
	}
	var profile bytes.Buffer
	if err := p.WriteTo(&profile, debug); err != nil {
		return fmt.Errorf("write the profile %s: %w", name, err)
	}
	if debug > 0 {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(profile.Bytes()) // the client may have gone
		return nil
	}
	writeProfile(w, name, profile.Bytes())
	return nil
}

func writeProfile(w http.ResponseWriter, name string, b []byte) {
	h := w.Header()
	h.Set("Content-Type", profileContentType)
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	_, _ = w.Write(b) // the client may have gone
}

// queryNumber reads a parameter that is a whole number from least to most.
func queryNumber(q url.Values, name string, absent, least, most int) (int, error) {
	if !q.Has(name) {
		return absent, nil
	}
	n, err := strconv.Atoi(q.Get(name))
	if err != nil || n < least || n > most {
		return 0, malformed("the query parameter %s is a whole number from %d to %d, not %q", name, least, most, q.Get(name))
	}
	return n, nil
}

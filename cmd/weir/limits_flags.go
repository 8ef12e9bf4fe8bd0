package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// limitFlags are the flags of limits set. A flag that is not given leaves its field as it is.
type limitFlags struct {
	target
	connections  string
	requests     string
	burst        string
	upload       string
	download     string
	byteBurst    string
	queueTimeout time.Duration
	queueSize    int
	noQueue      bool
	shared       bool
	mode         string
	evict        bool
}

// none, in place of a number, removes a cap.
const none = "none"

func (l *limitFlags) add(cmd *cobra.Command) {
	l.addFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&l.connections, "connections", "", "the most at once, `N`; 0 blocks, none sets no cap")
	flags.StringVar(&l.requests, "requests", "", "how many may begin, by time, as in `10/s`, 600/m or 0.5/h; none sets no cap")
	flags.StringVar(&l.burst, "requests-burst", "", "the most that begin at once, `N`; none: what a second brings, at least 1")
	flags.StringVar(&l.upload, "upload", "", "bytes a second from workers, as in `1MB` or 512KiB; none sets no cap")
	flags.StringVar(&l.download, "download", "", "bytes a second to workers, as in `10MB`; none sets no cap")
	flags.StringVar(&l.byteBurst, "bandwidth-burst", "", "`bytes` that pass at once, at least 4KiB; none: what a second brings, at least 64KiB")
	flags.DurationVar(&l.queueTimeout, "queue-timeout", 0, "let requests over the limit wait, at most this `time`; a new queue needs --queue-size too")
	flags.IntVar(&l.queueSize, "queue-size", 0, "at most this `number` of requests wait on each node; a new queue needs --queue-timeout too")
	flags.BoolVar(&l.noQueue, "no-queue", false, "remove the queue: refuse requests over the limit at once")
	flags.BoolVar(&l.shared, "shared", false, "all that match share one count")
	flags.StringVar(&l.mode, "mode", "", "enforce, or report: count what would be refused or slowed down, and let it pass; a `word`")
	flags.BoolVar(&l.evict, "evict", false, "close connections above the new limit, on each node its newest")
	// Fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{api.ModeEnforce, api.ModeReport}, cobra.ShellCompDirectiveNoFileComp))
}

// caps are the flags that cap something.
var caps = []string{"connections", "requests", "upload", "download"}

func changed(cmd *cobra.Command, names ...string) bool {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// check checks the flags that need no knowledge of the existing limit.
func (l *limitFlags) check(cmd *cobra.Command) error {
	queue := changed(cmd, "queue-timeout", "queue-size")
	if !changed(cmd, caps...) && !changed(cmd, "requests-burst", "bandwidth-burst", "shared", "mode") && !queue && !l.noQueue {
		return usagef(cmd, "--connections is missing: give a number, or none for no cap; or set another part of the limit")
	}
	if queue && l.noQueue {
		return usagef(cmd, "--no-queue removes the queue that --queue-timeout and --queue-size describe: give one or the other")
	}
	if changed(cmd, "mode") && l.mode != api.ModeEnforce && l.mode != api.ModeReport {
		return usagef(cmd, "--mode is enforce or report, not %q", l.mode)
	}
	burst, err := l.requestsBurst(cmd)
	if err != nil {
		return err
	}
	if changed(cmd, "requests") && l.requests != none {
		if _, err := limit.ParseRate(l.requests, burst); err != nil {
			return usagef(cmd, "--requests: %s", err)
		}
	}
	for name, text := range map[string]string{"upload": l.upload, "download": l.download, "bandwidth-burst": l.byteBurst} {
		if !changed(cmd, name) || text == none {
			continue
		}
		if _, err := limit.ParseBytes(text); err != nil {
			return usagef(cmd, "--%s: %s", name, err)
		}
	}
	_, err = l.cap(cmd)
	return err
}

// requestsBurst returns the value of --requests-burst; 0 stands for what a second brings.
func (l *limitFlags) requestsBurst(cmd *cobra.Command) (int64, error) {
	if l.burst == none || !changed(cmd, "requests-burst") {
		return 0, nil
	}
	n, err := strconv.ParseInt(l.burst, 10, 64)
	if err != nil || n < 1 {
		return 0, usagef(cmd, "--requests-burst is a number from 1 on, or none for what a second brings, not %q", l.burst)
	}
	return n, nil
}

// cap returns the value of --connections; nil is no cap.
func (l *limitFlags) cap(cmd *cobra.Command) (*int64, error) {
	if l.connections == none || !changed(cmd, "connections") {
		return nil, nil
	}
	n, err := strconv.ParseInt(l.connections, 10, 64)
	if err != nil || n < 0 {
		return nil, usagef(cmd, "--connections is a number from 0 on, or none for no cap, not %q", l.connections)
	}
	return &n, nil
}

// merge returns limit with the values of the given flags.
func (l *limitFlags) merge(cmd *cobra.Command, w api.Limit, exists bool) (api.Limit, error) {
	w.Source, w.ModifyIndex = "", 0
	if !exists && !changed(cmd, caps...) {
		return w, usagef(cmd, "--connections is missing: there is no limit for %s yet, so give a number, or none for no cap; or --requests, --upload or --download", w.Name())
	}
	if changed(cmd, "connections") {
		w.Connections, _ = l.cap(cmd) // checked before
	}
	if changed(cmd, "shared") {
		w.Shared = l.shared
	}
	if changed(cmd, "mode") {
		w.Mode = l.mode
	}
	for _, merge := range []func(*cobra.Command, *api.Limit) error{l.mergeRequests, l.mergeBandwidth, l.mergeQueue} {
		if err := merge(cmd, &w); err != nil {
			return w, err
		}
	}
	return w, nil
}

// mergeRequests keeps a burst that was set on purpose; the one that follows from the rate follows
// it.
func (l *limitFlags) mergeRequests(cmd *cobra.Command, w *api.Limit) error {
	if changed(cmd, "requests") {
		if l.requests == none {
			w.Requests = nil
		} else {
			r := api.Rate{Rate: l.requests}
			if w.Requests != nil {
				if def, err := limit.ParseRate(w.Requests.Rate, 0); err != nil || def.Burst != w.Requests.Burst {
					r.Burst = w.Requests.Burst
				}
			}
			w.Requests = &r
		}
	}
	if !changed(cmd, "requests-burst") {
		return nil
	}
	switch burst, _ := l.requestsBurst(cmd); { // checked before
	case w.Requests != nil:
		w.Requests = &api.Rate{Rate: w.Requests.Rate, Burst: burst}
	case l.burst != none:
		return usagef(cmd, "--requests-burst needs a rate: add --requests, as in --requests 10/s")
	}
	return nil
}

func (l *limitFlags) mergeBandwidth(cmd *cobra.Command, w *api.Limit) error {
	if !changed(cmd, "upload", "download", "bandwidth-burst") {
		return nil
	}
	var b api.Bandwidth
	if w.Bandwidth != nil {
		b = *w.Bandwidth
	}
	for name, field := range map[string]struct {
		to   *string
		text string
	}{"upload": {&b.Upload, l.upload}, "download": {&b.Download, l.download}, "bandwidth-burst": {&b.Burst, l.byteBurst}} {
		switch {
		case !changed(cmd, name):
		case field.text == none:
			*field.to = ""
		default:
			*field.to = field.text
		}
	}
	switch {
	case b.Upload == "" && b.Download == "" && changed(cmd, "bandwidth-burst") && l.byteBurst != none:
		return usagef(cmd, "--bandwidth-burst needs a rate: add --upload or --download, as in --download 10MB")
	case b.Upload == "" && b.Download == "":
		w.Bandwidth = nil
	default:
		w.Bandwidth = &b
	}
	return nil
}

func (l *limitFlags) mergeQueue(cmd *cobra.Command, w *api.Limit) error {
	timeout, size := changed(cmd, "queue-timeout"), changed(cmd, "queue-size")
	switch {
	case l.noQueue:
		w.Queue = nil
	case timeout || size:
		if w.Queue == nil && timeout != size {
			return usagef(cmd, "--queue-timeout and --queue-size go together where the limit has no queue yet")
		}
		var q api.Queue
		if w.Queue != nil {
			q = *w.Queue
		}
		if timeout {
			q.Timeout = api.Duration(l.queueTimeout)
		}
		if size {
			q.Size = l.queueSize
		}
		w.Queue = &q
	}
	switch {
	case w.Queue == nil || w.Connections != nil || w.Requests != nil:
	case timeout || size:
		return usagef(cmd, "in the queue nobody can wait without a cap: add --connections or --requests")
	default:
		return usagef(cmd, "the limit has a queue, in which nobody can wait without a cap: add --no-queue")
	}
	return nil
}

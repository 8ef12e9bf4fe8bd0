package main

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const (
	// notifyTimeout bounds one message, because the service manager's queue may be full.
	notifyTimeout = time.Second
	// maxLate is how long the lease may go without reading the clock before the node counts as
	// stuck. Normally it does so several times a second.
	maxLate = 5 * time.Second
	// stopReserve is how long stopping may take beyond drain_timeout.
	stopReserve = 30 * time.Second
)

// notifier reports the node's state to the service manager, as in sd_notify(3). Without a socket in
// the environment it does nothing. Its methods are for one goroutine at a time.
type notifier struct {
	socket string // "": nothing is reported
	beat   *time.Ticker
	log    hclog.Logger
}

// newNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; pid is this process's. A failure
// to report is logged, and does not stop the node.
func newNotifier(getenv func(string) string, pid int, log hclog.Logger) *notifier {
	n := &notifier{log: log}
	switch socket := getenv("NOTIFY_SOCKET"); {
	case socket == "":
		return n
	case socket[0] != '/' && socket[0] != '@':
		log.Warn("the service manager can't be told how the node is: NOTIFY_SOCKET is neither a path nor an abstract name", "socket", socket)
		return n
	default:
		n.socket = socket
	}
	if every := watchdogInterval(getenv, pid); every > 0 {
		n.beat = time.NewTicker(every)
	}
	return n
}

// watchdogInterval is the time between two signs of life: half of the service manager's limit, or 0
// if it expects none.
func watchdogInterval(getenv func(string) string, pid int) time.Duration {
	if of := getenv("WATCHDOG_PID"); of != "" && of != strconv.Itoa(pid) {
		return 0
	}
	micros, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || micros <= 0 || micros > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return max(time.Duration(micros)*time.Microsecond/2, time.Millisecond)
}

// due fires when a sign of life is expected; nil if none ever is.
func (n *notifier) due() <-chan time.Time {
	if n.beat == nil {
		return nil
	}
	return n.beat.C
}

func (n *notifier) close() {
	if n.beat != nil {
		n.beat.Stop()
	}
}

// ready reports that the node serves, after its start or a reload.
func (n *notifier) ready() { n.send("READY=1") }

// reloading reports that a reload has begun; ready follows.
func (n *notifier) reloading() {
	n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonic().Microseconds(), 10))
}

// stopping reports that the node ends, and that this may take drain and some more time.
func (n *notifier) stopping(drain time.Duration) {
	n.send("STOPPING=1", "EXTEND_TIMEOUT_USEC="+strconv.FormatInt((drain+stopReserve).Microseconds(), 10),
		"STATUS=draining: connections may end for "+drain.String())
}

// alive sends a sign of life, unless the lease is late: without one, the service manager restarts a
// node that is stuck.
func (n *notifier) alive(late time.Duration, status string) {
	if late > maxLate {
		n.log.Error("the lease has stopped looking at the clock: the service manager's watchdog gets no sign of life", "for", late)
		return
	}
	n.send("WATCHDOG=1", "STATUS="+strings.ReplaceAll(status, "\n", " "))
}

// send sends one message of several assignments.
func (n *notifier) send(lines ...string) {
	if n.socket == "" {
		return
	}
	if err := n.write(strings.Join(lines, "\n")); err != nil {
		n.log.Warn("the service manager can't be told how the node is", "message", lines[0], "error", err)
	}
}

func (n *notifier) write(message string) error {
	// An address that begins with an @ is an abstract one.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}

// monotonic returns CLOCK_MONOTONIC, which the service manager compares with its own.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // the message is then older than any
	}
	return time.Duration(ts.Nano())
}

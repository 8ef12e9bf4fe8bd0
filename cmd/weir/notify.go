package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const (
	// notifyTimeout bounds one message: the service manager's queue may be full.
	notifyTimeout = time.Second
	// maxLate is how long the lease may go without a look at the clock, which it takes several
	// times a second, before the node counts as stuck.
	maxLate = 5 * time.Second
	// stopReserve is how long stopping may take beyond drain_timeout.
	stopReserve = 30 * time.Second
)

// notifier tells the service manager how the node is, as sd_notify(3) describes. Where the
// environment names no socket it tells nobody. Its methods are for one goroutine at a time.
type notifier struct {
	socket string // "": nobody is told
	beat   *time.Ticker
	log    hclog.Logger
}

// newNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; pid is this process's. A failure
// to tell is logged, and is no reason not to run.
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

// watchdogInterval is the time between two signs of life: half of what the service manager allows.
// 0: it expects none.
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

// due is when a sign of life is expected; nil where none ever is.
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

// ready says that the node serves, after its start or a reload.
func (n *notifier) ready() { n.send("READY=1") }

// reloading says that a reload has begun; ready follows.
func (n *notifier) reloading() {
	n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonic().Microseconds(), 10))
}

// stopping says that the node ends, and that it may take drain and something more.
func (n *notifier) stopping(drain time.Duration) {
	n.send("STOPPING=1", "EXTEND_TIMEOUT_USEC="+strconv.FormatInt((drain+stopReserve).Microseconds(), 10),
		"STATUS=draining: connections may end for "+drain.String())
}

// alive gives a sign of life, unless the lease is late: a node that has stopped looking at the
// clock must be restarted, and a process that is stuck is restarted for want of signs.
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

// monotonic is CLOCK_MONOTONIC, which the service manager compares with its own.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // the message is then older than any
	}
	return time.Duration(ts.Nano())
}

// pulse gives a sign of life of the whole node: that of the goroutine which runs this, and the
// lease's.
func (a *agent) pulse() {
	a.notify.alive(a.manager.Late(), fmt.Sprintf("session %s, %s", a.manager.Session().State, count(a.proxy.Open(), "connection")))
}

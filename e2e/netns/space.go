//go:build linux

package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// commandTimeout bounds one run of ip, nft or tc.
const commandTimeout = 10 * time.Second

// Space is a network namespace, kept by an open file. Its methods may be called from any goroutine.
type Space struct{ file *os.File }

// Missing says what keeps this process from making networks, or returns nil. The error is
// ErrUnavailable where it lacks the privilege, and names the missing program otherwise.
func Missing() error {
	s, err := NewSpace()
	if errors.Is(err, unix.EPERM) {
		return ErrUnavailable
	}
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	for program, pkg := range map[string]string{"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "nsenter": "util-linux"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: install %s", err, pkg)
		}
	}
	return nil
}

// NewSpace makes an empty namespace: no interface but a loopback that is down.
func NewSpace() (*Space, error) {
	s := &Space{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		s.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close lets the namespace go once nothing runs in it and no socket of it is open.
func (s *Space) Close() error { return s.file.Close() }

// Path names the namespace, to programs that this process starts, for as long as it is open here.
func (s *Space) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd()) }

// Enter is the beginning of a command line that runs a program in the namespace, as the process
// that it starts.
func (s *Space) Enter() []string { return []string{"nsenter", "--net=" + s.Path()} }

// Do calls f on a thread in the namespace. What f opens or starts belongs to the namespace, also
// after f has returned. f must not leave its goroutine to do so.
func (s *Space) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// onThread calls f on a thread that ends with it: the lock is never released.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// DialContext connects from inside the namespace to an address literal.
func (s *Space) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return s.DialBy(ctx, new(net.Dialer), network, addr)
}

// DialBy is DialContext with a dialer.
func (s *Space) DialBy(ctx context.Context, d *net.Dialer, network, addr string) (conn net.Conn, err error) {
	err = s.Do(func() error {
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// run runs a program in the namespace, with a script as its input, and returns what it says.
func (s *Space) run(script, name string, args ...string) (said string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.Do(cmd.Run); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(out.Bytes()), script)
	}
	return out.String(), nil
}

// ip makes changes to the namespace's interfaces and addresses, one a line.
func (s *Space) ip(lines ...string) error {
	_, err := s.run(strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
	return err
}

// Configure makes changes to the namespace's interfaces, addresses and routes, one command of ip a
// line.
func (s *Space) Configure(lines ...string) error { return s.ip(lines...) }

// Redirect makes the namespace's own connections to one TCP port, at whatever address, lead to
// another port here.
func (s *Space) Redirect(from, to int) error {
	return s.nft("add table inet ports", "add chain inet ports output { type nat hook output priority -100; }",
		fmt.Sprintf("add rule inet ports output tcp dport %d redirect to :%d", from, to))
}

// nft changes what the namespace lets through, all at once.
func (s *Space) nft(lines ...string) error {
	_, err := s.run(strings.Join(lines, "\n")+"\n", "nft", "-f", "-")
	return err
}

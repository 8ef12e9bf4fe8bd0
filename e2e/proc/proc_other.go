//go:build !linux

package proc

import (
	"errors"
	"syscall"
	"time"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// CPU is known on Linux only.
func (p *Process) CPU() (time.Duration, error) { return 0, errors.ErrUnsupported }

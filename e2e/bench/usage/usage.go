// Package usage reads what other processes use: processor time to the nanosecond, memory and
// descriptors.
package usage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time, user and system, that all threads of the processes have used so far,
// those that have ended included. It is the scheduler's own count, not one of clock ticks:
// /proc/PID/stat knows 10 ms only, and /proc/PID/schedstat only the first thread.
func CPU(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		var used unix.Timespec
		if err := unix.ClockGettime(clockOf(pid), &used); err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		sum += time.Duration(used.Nano())
	}
	return sum, nil
}

// Self is the processor time that this process has used so far.
func Self() (time.Duration, error) { return CPU(os.Getpid()) }

// clockOf is the clock of a process's processor time: clock_getcpuclockid(3), as the kernel encodes
// it (the complement of the process's number in the upper bits, and 2 for a clock of the
// scheduler's precision).
func clockOf(pid int) int32 { return int32(^pid)<<3 | 2 }

// Memory is what of a process is in memory, in bytes.
type Memory struct {
	Resident     int64 // pages of its own and shared ones
	Proportional int64 // shared pages counted by their share
}

// ReadMemory sums the processes' memory, from /proc/PID/smaps_rollup.
func ReadMemory(pids ...int) (Memory, error) {
	var sum Memory
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return Memory{}, err
		}
		m, err := parseRollup(text)
		if err != nil {
			return Memory{}, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		sum.Resident += m.Resident
		sum.Proportional += m.Proportional
	}
	return sum, nil
}

// parseRollup reads the lines "Rss: N kB" and "Pss: N kB" of proc_pid_smaps_rollup.
func parseRollup(text []byte) (Memory, error) {
	var m Memory
	found := 0
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		into := map[string]*int64{"Rss:": &m.Resident, "Pss:": &m.Proportional}[fields[0]]
		if into == nil {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		*into = n << 10
		found++
	}
	if found != 2 {
		return Memory{}, errors.New("smaps_rollup has not one line each of Rss and Pss")
	}
	return m, nil
}

// Files counts the processes' open descriptors.
func Files(pids ...int) (int, error) {
	sum := 0
	for _, pid := range pids {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return 0, err
		}
		sum += len(entries)
	}
	return sum, nil
}

// Family is a process with all that descend from it, such as a proxy with its workers.
func Family(pid int) ([]int, error) {
	family := []int{pid}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			continue // a thread that has ended meanwhile
		}
		for child := range strings.FieldsSeq(string(text)) {
			n, err := strconv.Atoi(child)
			if err != nil {
				return nil, fmt.Errorf("children of process %d: %w", pid, err)
			}
			more, err := Family(n)
			if err != nil {
				continue // a child that has ended meanwhile
			}
			family = append(family, more...)
		}
	}
	return family, nil
}

// Machine is how the time of all processors together was spent since the start.
type Machine struct {
	Busy, Total time.Duration
}

// ReadMachine reads /proc/stat, to 10 ms.
func ReadMachine() (Machine, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, err
	}
	return parseMachine(string(text))
}

// parseMachine reads the line "cpu user nice system idle iowait irq softirq steal …" of
// proc_stat(5). A guest's time is part of user's already.
func parseMachine(stat string) (Machine, error) {
	const tick, idle, iowait, steal = 10 * time.Millisecond, 3, 4, 7
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return Machine{}, fmt.Errorf("the first line of /proc/stat is %q; want cpu and its times", line)
	}
	var m Machine
	for i, field := range fields[1 : 2+steal] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Machine{}, fmt.Errorf("/proc/stat: %w", err)
		}
		m.Total += time.Duration(n) * tick
		if i != idle && i != iowait {
			m.Busy += time.Duration(n) * tick
		}
	}
	return m, nil
}

// Since is the share of the machine's time, 0 to 1, that was busy after an earlier reading.
func (m Machine) Since(before Machine) float64 {
	if m.Total == before.Total {
		return 0
	}
	return float64(m.Busy-before.Busy) / float64(m.Total-before.Total)
}

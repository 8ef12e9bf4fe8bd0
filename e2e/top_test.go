package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// screen is a terminal of tmux's, in which a command runs.
type screen struct{ socket string }

// openScreen runs a command in a terminal of 80×24 that ends with the test. Without tmux the test
// is skipped, and says so.
func openScreen(t *testing.T, env []string, command string) *screen {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		fmt.Fprintln(os.Stderr, "*** NOT TESTED: terminals need tmux ***")
		t.Skip("there is no tmux: apt-get install tmux")
	}
	s := &screen{socket: filepath.Join(t.TempDir(), "tmux")}
	args := append([]string{"-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"}, "env")
	args = append(append(args, env...), "sh", "-c", command+"; echo code $?; stty -a; read end")
	s.tmux(t, args...)
	t.Cleanup(func() { s.tmux(t, "kill-server") })
	return s
}

func (s *screen) tmux(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

func (s *screen) keys(t *testing.T, keys ...string) {
	t.Helper()
	s.tmux(t, append([]string{"send-keys"}, keys...)...)
}

func (s *screen) text(t *testing.T) string {
	t.Helper()
	return s.tmux(t, "capture-pane", "-p")
}

// shows waits until a line of the screen matches a pattern.
func (s *screen) shows(t *testing.T, within time.Duration, pattern string) {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	eventually(t, within, "the screen shows "+pattern, func() error {
		if text := s.text(t); !re.MatchString(text) {
			return errors.New("it shows:\n" + text)
		}
		return nil
	})
}

// TestTop drives weir top in a real terminal, against three nodes under load, as an operator would.
func TestTop(t *testing.T) {
	c := startWatched(t)
	busy, quiet, asked := c.busy, c.quiet, c.leads
	s := openScreen(t, []string{"LANG=C.UTF-8", "TERM=screen-256color", "WEIR_ADDR=" + asked.api}, os.Getenv(binaryVariable)+" top --sort host")

	s.shows(t, 20*time.Second, "leader "+asked.name+", term [0-9]+ .*every 1s$")
	for _, n := range c.nodes {
		s.shows(t, 10*time.Second, n.name+" +server .*alive +live ")
	}
	s.shows(t, 10*time.Second, regexp.QuoteMeta(busy.name)+" +6 +[0-9]+ .*█.* [0-9.]*[1-9][0-9.]* +[0-9.]*[1-9][0-9.]*$")
	topResizes(t, s)
	topFiltersAndOpens(t, s, quiet, c.tunnel.LocalAddr().String())
	topShowsADeadNode(t, c.cluster, s, c.idle)
	topComesBack(t, s, asked)

	s.keys(t, "q")
	s.isGivenBack(t)
}

// isGivenBack: the command has ended, exit code 0, and the terminal is as it was before.
func (s *screen) isGivenBack(t *testing.T) {
	t.Helper()
	s.shows(t, 20*time.Second, "^code 0$")
	s.shows(t, 10*time.Second, "isig icanon.* echo ")
	if text := s.text(t); strings.Contains(text, "NODE") {
		t.Errorf("what was on the screen before is not back:\n%s", text)
	}
}

func topResizes(t *testing.T, s *screen) {
	s.tmux(t, "resize-window", "-x", "150", "-y", "40")
	s.shows(t, 10*time.Second, "NODE .*ADM/S +REF/S VERSION")
	s.tmux(t, "resize-window", "-x", "50", "-y", "15")
	s.shows(t, 10*time.Second, "^ +NODE +HEALTH.*$")
	s.tmux(t, "resize-window", "-x", "100", "-y", "24")
	s.shows(t, 10*time.Second, "HOST▲ .*ADM/S +REF/S$")
}

// topFiltersAndOpens: a host is found by a part of its name, and shows the connection to it that
// another node holds.
func topFiltersAndOpens(t *testing.T, s *screen, up host, client string) {
	part := up.name[strings.LastIndex(up.name, "."):]
	s.keys(t, "/", part)
	s.shows(t, 5*time.Second, "^/"+regexp.QuoteMeta(part))
	s.keys(t, "Enter")
	s.shows(t, 5*time.Second, regexp.QuoteMeta(strconv.Quote(part))+": 1 of 1$")
	s.keys(t, "Enter")
	s.shows(t, 10*time.Second, "^"+regexp.QuoteMeta(up.name)+"  limit 25")
	s.shows(t, 10*time.Second, regexp.QuoteMeta(client)+" +"+regexp.QuoteMeta(up.target)+" +connect ")
	s.keys(t, "?")
	s.shows(t, 5*time.Second, "^Keys")
	s.keys(t, "x", "BSpace")
	s.shows(t, 5*time.Second, "^HOST")
	s.keys(t, "BSpace")
	s.shows(t, 5*time.Second, "[0-9]+ of [2-9]$")
}

// topShowsADeadNode: with the time until its slots come back, which counts down.
func topShowsADeadNode(t *testing.T, c *cluster, s *screen, victim *node) {
	up := c.upstream(t)
	victim.openMany(t, up.target, 3)
	s.shows(t, 10*time.Second, regexp.QuoteMeta(up.name)+" +25 +3 ")
	victim.kill(t)
	s.shows(t, 10*time.Second, victim.name+" +server +(dead|suspect) +live +[0-9.]+s")
	s.shows(t, 15*time.Second, "reclaimed from "+victim.name)
	s.shows(t, 15*time.Second, victim.name+" +server +dead +(expired|none) ")
}

// topComesBack: where the node that is asked goes away, what it told last stays, and a later one at
// its address is followed.
func topComesBack(t *testing.T, s *screen, asked *node) {
	asked.kill(t)
	s.shows(t, 10*time.Second, "^No answer: .*refused. Trying again in [0-9]+s")
	if text := s.text(t); !strings.Contains(text, "HOST▲") {
		t.Errorf("what was told last has gone:\n%s", text)
	}
	asked.start(t)
	eventually(t, 30*time.Second, "it is followed again", func() error {
		if text := s.text(t); strings.Contains(text, "No answer") || !strings.Contains(text, "alive") {
			return errors.New("it shows:\n" + text)
		}
		return nil
	})
	s.shows(t, 30*time.Second, "leader [a-z]+, term ([3-9]|[0-9]{2,})")
	s.shows(t, 30*time.Second, asked.name+" +server .*alive +live ")
}

// TestTopEndsBySignal: as by a key.
func TestTopEndsBySignal(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	env := []string{"LANG=C.UTF-8", "TERM=screen-256color", "WEIR_ADDR=" + c.nodes[0].api}
	s := openScreen(t, env, "timeout --foreground --preserve-status -s TERM 4 "+os.Getenv(binaryVariable)+" top")
	s.isGivenBack(t)
}

// TestTopIsPlainElsewhere: into a pipe, and on a terminal that can't draw, one picture is printed.
func TestTopIsPlainElsewhere(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	up := c.upstream(t)
	tunnel := n.open(t, up.target)
	defer end(t, tunnel)
	stdout, stderr, code := n.weir(t, "top")
	if code != 0 || stderr != "" || strings.Contains(stdout, "\x1b") || !regexp.MustCompile(regexp.QuoteMeta(up.name)+` +none +1 `).MatchString(stdout) {
		t.Errorf("exit %d, %s\n%s", code, stderr, stdout)
	}
	s := openScreen(t, []string{"TERM=dumb", "WEIR_ADDR=" + n.api}, os.Getenv(binaryVariable)+" top")
	s.shows(t, 20*time.Second, "^NODE +ROLE +LEADER")
	s.shows(t, 20*time.Second, "^code 0$")
}

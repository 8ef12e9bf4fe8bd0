package main

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/cmd/weir/top"
)

const (
	retryFirst = time.Second // before the node is tried again; then twice as long, up to retryMost
	retryMost  = 8 * time.Second
	clockTick  = time.Second // the longest between two frames: what counts down moves
	askTimeout = 5 * time.Second

	connectionsShown = 500  // of a host, the oldest
	usesShown        = 1000 // of a scope, the most used
)

// What the screen is told beside what the terminal tells.
type (
	lostMsg struct {
		why string
		at  time.Time // of the next attempt
	}
	clockMsg       time.Time
	connectionsMsg struct {
		host string
		list api.ConnectionList
		err  string
	}
	usageMsg struct {
		scope string
		uses  api.Usages
		err   string
	}
)

// screen owns the terminal for a model.
type screen struct {
	model     *top.Model
	interval  time.Duration
	refreshed time.Time
	// ask lists a host's connections.
	ask    func(host string) tea.Msg
	asking string // the host whose connections are being asked for
	// askUsage tells the use of a scope.
	askUsage    func(scope string) tea.Msg
	askingUsage string // the scope whose use is being asked for
}

// draws reports whether standard output is a terminal that can be drawn on, and not only written to
// line by line.
func (p *process) draws() bool {
	_, terminal := p.rows()
	name := p.getenv("TERM")
	return terminal && name != "" && name != "dumb"
}

// unicode reports whether the terminal takes more than ASCII, as the locale tells (setlocale(3)).
func (p *process) unicode() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := p.getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// runScreen shows the cluster until a key or a signal ends it. The terminal is as it was before,
// however it ends.
func runScreen(ctx context.Context, p *process, c *api.Client, w io.Writer, o top.Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &screen{model: top.New(o), interval: o.Interval, ask: func(host string) tea.Msg { return askConnections(ctx, c, host) }}
	s.askUsage = func(scope string) tea.Msg { return askUsage(ctx, c, scope) }
	return s.run(ctx, p, w, func(ctx context.Context, send func(tea.Msg)) {
		follow(ctx, c, send)
	})
}

// run gives the terminal to the screen, and feeds it, until it quits.
func (s *screen) run(ctx context.Context, p *process, w io.Writer, feed func(context.Context, func(tea.Msg))) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := []tea.ProgramOption{tea.WithContext(ctx), tea.WithOutput(w), tea.WithEnvironment(p.environ())}
	if p.stdin != nil {
		options = append(options, tea.WithInput(p.stdin))
	}
	program := tea.NewProgram(s, options...)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		feed(ctx, program.Send)
	}()
	_, err := program.Run()
	cancel()
	<-fed
	if errors.Is(err, tea.ErrInterrupted) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// follow hands on what the node tells, until ctx ends. A node that goes away is tried again for
// ever.
func follow(ctx context.Context, c *api.Client, send func(tea.Msg)) {
	var q api.EventQuery
	pause := retryFirst
	for ctx.Err() == nil {
		for n, err := range c.Events(ctx, q) {
			if err != nil {
				send(lostMsg{why: cause(err), at: time.Now().Add(pause)})
				break
			}
			if pause = retryFirst; n.ID != "" {
				q.After = n.ID
			}
			send(n)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		pause = min(2*pause, retryMost)
	}
}

// cause is an error without the request that it came of.
func cause(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return err.Error()
}

func askConnections(ctx context.Context, c *api.Client, host string) tea.Msg {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	list, err := c.Connections(ctx, api.ConnectionQuery{Key: host, Node: "*", Limit: connectionsShown})
	msg := connectionsMsg{host: host, list: list}
	if err != nil {
		msg.err = cause(err)
	}
	return msg
}

func askUsage(ctx context.Context, c *api.Client, scope string) tea.Msg {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	uses, err := c.Usage(ctx, scope, api.HostQuery{Sort: "in_use", Limit: usesShown})
	msg := usageMsg{scope: scope, uses: uses}
	if err != nil {
		msg.err = cause(err)
	}
	return msg
}

// Init implements [tea.Model].
func (s *screen) Init() tea.Cmd { return tea.Batch(s.clock(), s.connections()) }

func (s *screen) clock() tea.Cmd {
	return tea.Tick(min(s.interval, clockTick), func(t time.Time) tea.Msg { return clockMsg(t) })
}

// connections asks for those of the host that is shown, unless they are on their way.
func (s *screen) connections() tea.Cmd {
	host := s.model.Host()
	if host == "" || host == s.asking {
		return nil
	}
	s.asking = host
	return func() tea.Msg { return s.ask(host) }
}

// usage asks for the use of the scope that is shown, unless it is on its way.
func (s *screen) usage() tea.Cmd {
	scope := s.model.Scope()
	if scope == "" || scope == s.askingUsage {
		return nil
	}
	s.askingUsage = scope
	return func() tea.Msg { return s.askUsage(scope) }
}

// Update implements [tea.Model].
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.model.Resize(msg.Width, msg.Height)
	case tea.KeyPressMsg:
		return s, s.key(msg.String())
	case tea.PasteMsg:
		s.model.Type(msg.Content)
	case api.Notice:
		s.model.Take(time.Now(), msg)
	case lostMsg:
		s.model.Lost(msg.why, msg.at)
	case connectionsMsg:
		if s.asking == msg.host {
			s.asking = ""
		}
		s.model.TakeConnections(msg.host, msg.list, msg.err)
	case usageMsg:
		if s.askingUsage == msg.scope {
			s.askingUsage = ""
		}
		s.model.TakeUsage(time.Now(), msg.scope, msg.uses, msg.err)
	case clockMsg:
		return s, tea.Batch(s.clock(), s.refresh(time.Time(msg)))
	}
	return s, nil
}

func (s *screen) key(key string) tea.Cmd {
	if key == "ctrl+z" {
		return tea.Suspend
	}
	host, scope := s.model.Host(), s.model.Scope()
	if s.model.Key(key) {
		return tea.Quit
	}
	if s.model.Host() != host || s.model.Scope() != scope {
		return tea.Batch(s.connections(), s.usage())
	}
	return nil
}

// refresh makes a new picture once the interval is over; half a tick early is in time.
func (s *screen) refresh(now time.Time) tea.Cmd {
	if now.Sub(s.refreshed) < s.interval-min(s.interval, clockTick)/2 {
		return nil
	}
	s.refreshed = now
	s.model.Refresh()
	return tea.Batch(s.connections(), s.usage())
}

// View implements [tea.Model].
func (s *screen) View() tea.View {
	v := tea.NewView(s.model.Frame(time.Now()))
	v.AltScreen = true
	return v
}

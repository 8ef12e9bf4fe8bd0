package check

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// dockerfile parses the Dockerfile as BuildKit does, with its warnings for errors.
func dockerfile(t *testing.T) []instructions.Stage {
	t.Helper()
	f, err := os.Open("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	parsed, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range parsed.Warnings {
		t.Error(w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, at []parser.Range) { t.Errorf("%s: %s: %v", rule, message, at) }})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	return stages
}

// The image is the binary alone, under a user without rights, and says how it is.
func TestDockerfile(t *testing.T) {
	stages := dockerfile(t)
	last := stages[len(stages)-1]
	if last.BaseName != "scratch" {
		t.Errorf("the image is made from %s", last.BaseName)
	}
	said := map[string]string{}
	for _, c := range last.Commands {
		switch c := c.(type) {
		case *instructions.RunCommand:
			t.Errorf("the image has no shell to run %v", c.CmdLine)
		case *instructions.LabelCommand:
			for _, l := range c.Labels {
				said["label"] += l.Key + " "
			}
		case *instructions.UserCommand:
			said["user"] = c.User
		case *instructions.StopSignalCommand:
			said["stopsignal"] = c.Signal
		case *instructions.VolumeCommand:
			said["volume"] = strings.Join(c.Volumes, " ")
		case *instructions.ExposeCommand:
			said["expose"] = strings.Join(c.Ports, " ")
		case *instructions.HealthCheckCommand:
			said["healthcheck"] = strings.Join(c.Health.Test, " ")
		case *instructions.EntrypointCommand:
			said["entrypoint"] = fmt.Sprint(c.CmdLine, c.PrependShell)
		case *instructions.CmdCommand:
			said["cmd"] = fmt.Sprint(c.CmdLine, c.PrependShell)
		}
	}
	for name, want := range map[string]string{
		"user": "65532:65532", "stopsignal": "SIGTERM", "volume": "/var/lib/weir", "expose": "8080 8081 8082 8083 8083/udp",
		"healthcheck": "CMD weir status --ready", "entrypoint": "[weir] false", "cmd": "[agent --config /etc/weir] false",
	} {
		if said[name] != want {
			t.Errorf("%s is %q, want %q", name, said[name], want)
		}
	}
	if !strings.HasPrefix(stages[0].BaseName, "golang:1.") {
		t.Errorf("the binary is built in %s", stages[0].BaseName)
	}
	if labels := said["label"]; !strings.Contains(labels, "org.opencontainers.image.revision") || !strings.Contains(labels, "org.opencontainers.image.licenses") {
		t.Errorf("labels are missing: %s", labels)
	}
}

// project loads compose.yaml as docker compose does, with its schema.
func project(t *testing.T, environment types.Mapping) (*types.Project, error) {
	t.Helper()
	details := types.ConfigDetails{
		WorkingDir: "..", ConfigFiles: []types.ConfigFile{{Filename: "../compose.yaml"}}, Environment: environment,
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return loader.LoadWithContext(ctx, details)
}

func TestCompose(t *testing.T) {
	if _, err := project(t, types.Mapping{"WEIR_TOKEN_FILE": "/token"}); err == nil || !strings.Contains(err.Error(), "weir keygen") {
		t.Errorf("without a gossip key: %v", err)
	}
	if _, err := project(t, types.Mapping{"WEIR_GOSSIP_KEY": "k"}); err == nil || !strings.Contains(err.Error(), "WEIR_TOKEN_FILE") {
		t.Errorf("without a token: %v", err)
	}
	p, err := project(t, types.Mapping{"WEIR_GOSSIP_KEY": "k", "WEIR_TOKEN_FILE": "/token"})
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	for _, name := range []string{"a", "b", "c"} {
		s, err := p.GetService(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := *s.Environment["WEIR_NAME"]; got != name {
			t.Errorf("the node of service %s is named %s", name, got)
		}
		if s.Environment["WEIR_GOSSIP_KEY"] == nil || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("service %s: no gossip key, or more rights than it needs", name)
		}
		if got := strings.Join(s.HealthCheck.Test, " "); got != "CMD weir status --ready" {
			t.Errorf("service %s is checked with %s", name, got)
		}
		if need, got := drainTimeout(t, "../compose/weir.hcl")+stopReserve, time.Duration(*s.StopGracePeriod); got < need {
			t.Errorf("service %s may take %v to end, and needs %v", name, got, need)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("port %s of service %s is open to the world", port.Published, name)
			}
			ports = append(ports, port.Published)
		}
	}
	slices.Sort(ports)
	if got := strings.Join(ports, " "); got != "8080 8081 8180 8181 8280 8281" {
		t.Errorf("the ports are %s", got)
	}
	// Compose copies what is no file into the container, and refuses where the root is read-only.
	if config, token := p.Configs["weir"].File, p.Secrets["token"].File; config == "" || token != "/token" {
		t.Errorf("the config is mounted from %q, and the token from %q; want /token, and both from files", config, token)
	}
}

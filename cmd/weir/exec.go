package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

func newExecCommand(p *process) *cobra.Command {
	var proxy, user string
	cmd := &cobra.Command{
		Use:   "exec [flags] -- CMD [ARG…]",
		Short: "Run a command whose connections go through a node",
		Long: `Run a command with HTTP_PROXY, HTTPS_PROXY and ALL_PROXY (in both cases) set to the node's proxy. The command
replaces this process, so signals and the exit code are its own.

The host of the node's API is added to what NO_PROXY and no_proxy list: the command connects to it
directly, whatever the port, and weir does not count those connections. WEIR_ADDR is set to the node's API.

If the proxy speaks SOCKS5 only (proxy.protocols), the variables are socks5h:// URLs. They are never
socks5:// ones: with these, many programs resolve names themselves, and limits on names don't hold for them.

The proxy's address comes from the node's API, unless --proxy or WEIR_PROXY gives it. If the proxy has
users, set WEIR_PROXY_USER to NAME:PASSWORD. The flag --user does the same, but makes the password visible
in process listings.`,
		Example: `  weir exec -- curl https://api.example.com/
  weir exec --proxy http://127.0.0.1:8180 -- ./worker --all
  WEIR_PROXY_USER=crawler:secret weir exec -- ./worker`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("the command to run is missing")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	f := addClientFlags(p, cmd)
	_ = cmd.PersistentFlags().MarkHidden("json") // there is nothing to print; Fails only for a flag that isn't there.
	cmd.Flags().StringVar(&proxy, "proxy", "", "the proxy's `URL` (WEIR_PROXY; default: what the node's API reports)")
	cmd.Flags().StringVar(&user, "user", "", "the proxy's user, as `NAME:PASSWORD` (WEIR_PROXY_USER)")
	cmd.Flags().SetInterspersed(false) // what follows CMD is CMD's
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := exec.LookPath(args[0])
		if err != nil {
			return fmt.Errorf("can't run %s: %w", args[0], errors.Unwrap(err))
		}
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		if proxy == "" {
			proxy = p.getenv("WEIR_PROXY")
		}
		if user == "" {
			user = p.getenv("WEIR_PROXY_USER")
		}
		credentials, err := proxyUser(cmd, user)
		if err != nil {
			return err
		}
		target, err := proxyURL(cmd, c, proxy)
		if err != nil {
			return err
		}
		if credentials != nil {
			target.User = credentials
		}
		c.CloseIdle()
		if err := p.exec(path, args, proxyEnv(p.environ(), target.String(), c.Addr())); err != nil {
			return fmt.Errorf("can't run %s: %w", path, err)
		}
		return nil
	}
	return cmd
}

// proxyURL returns the given proxy, or the one that the node's API reports.
func proxyURL(cmd *cobra.Command, c *api.Client, given string) (*url.URL, error) {
	if given != "" {
		if !strings.Contains(given, "://") {
			given = "http://" + given
		}
		u, err := url.Parse(given)
		switch {
		case err != nil, u.Host == "", !slices.Contains([]string{"http", "https", "socks5h", "socks5"}, u.Scheme):
			return nil, usagef(cmd, "this is not a proxy's URL: write it as http://127.0.0.1:8080") // it may hold a password
		case u.Scheme == "socks5":
			return nil, usagef(cmd, "with socks5:// programs resolve names themselves, and limits on names don't hold for them: write socks5h://")
		}
		return &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}, nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil {
		return nil, explain(c, err)
	}
	host, port, err := net.SplitHostPort(st.ProxyAddr)
	if err != nil {
		return nil, fmt.Errorf("the node at %s does not report its proxy's address: set --proxy or WEIR_PROXY", c.Addr())
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		// The proxy listens on every address. The one at which the API was reached is one of them.
		if u, err := url.Parse(c.Addr()); err == nil {
			host = u.Hostname()
		}
	}
	scheme := api.ProxyScheme(st.ProxyProtocols, st.ProxyTLS)
	if scheme == "" {
		return nil, fmt.Errorf("the proxy of %s speaks SOCKS5 inside TLS only, which no variable can say: set --proxy or WEIR_PROXY to another node, or proxy.protocols to [\"http\", \"socks5\"]", st.Node)
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, nil
}

// proxyUser parses NAME:PASSWORD; "" is no user. Its errors do not show the value.
func proxyUser(cmd *cobra.Command, given string) (*url.Userinfo, error) {
	if given == "" {
		return nil, nil
	}
	name, password, ok := strings.Cut(given, ":")
	if !ok || name == "" {
		return nil, usagef(cmd, "the proxy's user is not written as NAME:PASSWORD")
	}
	return url.UserPassword(name, password), nil
}

// proxyEnv returns env with the proxy's variables replaced, and with WEIR_ADDR set to the node's
// API. Hosts that env excludes from proxying, in either case of the name, stay excluded.
func proxyEnv(env []string, proxy, apiAddr string) []string {
	var out, direct []string
	except := func(hosts ...string) {
		for _, h := range hosts {
			if h = strings.TrimSpace(h); h != "" && !slices.Contains(direct, h) {
				direct = append(direct, h)
			}
		}
	}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "all_proxy", "weir_addr":
		case "no_proxy":
			except(strings.Split(value, ",")...)
		default:
			out = append(out, kv)
		}
	}
	except(directHosts(apiAddr)...)
	set := func(name, value string) { out = append(out, name+"="+value, strings.ToLower(name)+"="+value) }
	set("HTTP_PROXY", proxy)
	set("HTTPS_PROXY", proxy)
	set("ALL_PROXY", proxy)
	set("NO_PROXY", strings.Join(direct, ","))
	return append(out, "WEIR_ADDR="+apiAddr)
}

// directHosts returns the spellings of the API's host. They have no port, because most clients
// (curl, wget, requests, aiohttp) ignore an entry with one. Some clients expect an IPv6 address
// with brackets, others without. No other host bypasses the proxy: its limits count here too.
func directHosts(apiAddr string) []string {
	u, err := url.Parse(apiAddr)
	if err != nil || u.Hostname() == "" {
		return nil
	}
	if strings.Contains(u.Hostname(), ":") {
		return []string{u.Hostname(), "[" + u.Hostname() + "]"}
	}
	return []string{u.Hostname()}
}

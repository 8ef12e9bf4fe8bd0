package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/weirproxy/weir/config/certs"
	"github.com/weirproxy/weir/limit"
)

const (
	maxUsers    = 100_000
	maxUserName = 255 // bytes, as in htpasswd

	// The accepted costs of bcrypt. Each step doubles the time of a check: 15 takes a second or
	// two.
	minBcryptCost = 4
	maxBcryptCost = 15
)

// User is one line of a users file.
type User struct {
	Name string
	Hash Secret // bcrypt: "$2y$10$…"
}

// ReadUsers reads a users file: lines of a name, a colon and a bcrypt hash, as `htpasswd -B` writes
// them. Empty lines and lines that begin with "#" are skipped. It returns the users in the file's
// order, or every problem. Problems do not show the file's content.
func ReadUsers(name string) ([]User, Diagnostics) {
	src, err := certs.ReadFile(name, maxFileBytes)
	if err != nil {
		return nil, Diagnostics{{At: Position{File: name}, Message: "can't be read: " + certs.Reason(err)}}
	}
	return parseUsers(name, src)
}

// parseUsers is ReadUsers without the file.
func parseUsers(name string, src []byte) (users []User, problems Diagnostics) {
	seen := map[string]int{} // the line of each name
	number := 0
	for line := range bytes.Lines(src) {
		number++
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		u, message, hint := parseUser(string(line))
		if first, twice := seen[u.Name]; twice && message == "" {
			message, hint = fmt.Sprintf("the user %q is on line %d already", u.Name, first), "Remove one of the two."
		}
		if message != "" {
			problems = append(problems, Diagnostic{At: Position{File: name, Line: number, Column: 1}, Message: message, Hint: hint})
			continue
		}
		seen[u.Name] = number
		users = append(users, u)
	}
	at := Position{File: name, Line: 1, Column: 1}
	switch {
	case len(problems) > 0:
		return nil, problems
	case len(users) == 0:
		return nil, Diagnostics{{At: at, Message: "the file names no user: nobody could use the proxy", Hint: makeUser}}
	case len(users) > maxUsers:
		return nil, Diagnostics{{At: at, Message: fmt.Sprintf("the file has %d users; %d are the most", len(users), maxUsers)}}
	}
	return users, nil
}

// makeUser is the hint for making a line.
const makeUser = "Make a line with `htpasswd -nB NAME`."

// parseUser parses one line. Otherwise message describes the problem, and shows nothing of the line
// but the name.
func parseUser(line string) (u User, message, hint string) {
	name, hash, found := strings.Cut(line, ":")
	switch {
	case !found:
		return u, "this is not a user and a hash with a colon between them", makeUser
	case name == "":
		return u, "the line has no user before its colon", makeUser
	case len(name) > maxUserName:
		return u, fmt.Sprintf("the user's name has %d bytes; %d are the most", len(name), maxUserName), ""
	case !utf8.ValidString(name) || limit.CheckName(name) != nil: // RFC 7617 §2, and its charset
		return u, "the user's name holds characters that can't be printed, or is not UTF-8", ""
	}
	if wrong := checkBcrypt(hash); wrong != "" {
		return u, fmt.Sprintf("the user %q has %s", name, wrong), makeUser
	}
	return User{name, Secret(hash)}, "", ""
}

// checkBcrypt returns what is wrong with a hash, or "".
func checkBcrypt(hash string) string {
	version, rest, found := strings.Cut(strings.TrimPrefix(hash, "$"), "$")
	cost, digest, complete := strings.Cut(rest, "$")
	switch {
	case hash == "":
		return "no password"
	case !strings.HasPrefix(hash, "$") || !found || !slices.Contains([]string{"2y", "2a", "2b"}, version):
		return "a password that is not hashed with bcrypt, the only kind that is taken"
	case !complete || len(cost) != 2 || len(digest) != 53 || strings.ContainsFunc(digest, notBcrypt):
		return "a bcrypt hash that is damaged: it is $2y$, two digits, $ and 53 characters"
	}
	if n := int(cost[0]-'0')*10 + int(cost[1]-'0'); strings.ContainsFunc(cost, notDigit) || n < minBcryptCost || n > maxBcryptCost {
		return fmt.Sprintf("a bcrypt hash whose cost is not %02d to %d", minBcryptCost, maxBcryptCost)
	}
	return ""
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

// notBcrypt reports whether bcrypt's own base64 lacks a character.
func notBcrypt(r rune) bool {
	return notDigit(r) && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '.' && r != '/'
}

// users reads the file at path, if the config names one.
func (l *loader) users(path, name string) []User {
	if !l.checkReadable(path, name) {
		return nil
	}
	users, problems := ReadUsers(name)
	for _, p := range problems {
		l.add(l.at(path), fmt.Sprintf("%s: %s:%d: %s", path, name, p.At.Line, p.Message), p.Hint)
	}
	return users
}

package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// valueType describes one type of value: its name in the reference, and how a written value becomes
// a Go one. A faulty value answers every fault in it.
type valueType[V any] struct {
	name  string
	parse func(value) (V, []fault)
}

// must reports a value of the wrong kind.
func must(v value, what, hint string) []fault {
	if v.kind == kindNull {
		return v.fault("null is not a value", "Remove the line to have the default.")
	}
	return v.fault(fmt.Sprintf("must be %s, not %s", what, v.kind), hint)
}

// parseString makes a type from a function over the text; an empty text is passed on like any
// other.
func parseString[V any](name string, parse func(text string) (v V, message, hint string)) valueType[V] {
	return valueType[V]{name, func(v value) (out V, faults []fault) {
		if v.kind != kindString {
			hint := "Write it in quotes."
			switch v.kind {
			case kindNumber:
				if n := numberText(v); n != absurdNumber {
					hint = fmt.Sprintf("Write %q, in quotes.", n)
				}
			case kindList:
				hint = "Write one string, without brackets."
			}
			return out, must(v, "a string", hint)
		}
		out, message, hint := parse(v.text)
		if message != "" {
			return out, v.fault(message, hint)
		}
		return out, nil
	}}
}

const absurdNumber = "the number"

// numberText shows a number; one with an absurd exponent, which would take minutes to write out, as
// absurdNumber.
func numberText(v value) string {
	if e := v.number.MantExp(nil); v.number.IsInf() || e > 128 || e < -128 {
		return absurdNumber
	}
	return v.number.Text('g', 10)
}

// text is any string.
func text() valueType[string] {
	return parseString("string", func(s string) (string, string, string) {
		if strings.ContainsRune(s, 0) {
			return "", "holds a NUL character", "Remove it."
		}
		return s, "", ""
	})
}

// choice is one of a few words.
func choice[V ~string](words ...V) valueType[V] {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	return parseString("one of "+quoted(words), func(s string) (V, string, string) {
		if slices.Contains(names, s) {
			return V(s), "", ""
		}
		hint := fmt.Sprintf("Write %s.", quoted(words))
		if near := nearest(s, names); near != "" {
			hint = fmt.Sprintf("Did you mean %q? It takes %s.", near, quoted(words))
		}
		return "", fmt.Sprintf("%q is not one of its values", s), hint
	})
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)

// UsableName reports whether s can be a node's name: 1 to 63 letters, digits, dots, underscores and
// hyphens. It stands in URLs, headers and Raft ids, so the alphabet is small.
func UsableName(s string) bool { return namePattern.MatchString(s) }

func nodeName() valueType[string] {
	return parseString("node name", func(s string) (string, string, string) {
		if !UsableName(s) {
			return "", fmt.Sprintf("%q can't be a node's name", s), "Use 1 to 63 letters, digits, dots, underscores and hyphens."
		}
		return s, "", ""
	})
}

// integer is a whole number from low to high.
func integer[V int | int64](low, high V) valueType[V] {
	span := fmt.Sprintf("%d to %d", low, high)
	return valueType[V]{"number, " + span, func(v value) (V, []fault) {
		hint := fmt.Sprintf("Write a whole number from %s.", span)
		if v.kind != kindNumber {
			if n, err := strconv.ParseInt(v.text, 10, 64); v.kind == kindString && err == nil {
				hint = fmt.Sprintf("Write %d, without quotes.", n)
			}
			return 0, must(v, "a number", hint)
		}
		if !v.number.IsInt() && !v.number.IsInf() {
			return 0, v.fault(numberText(v)+" is not a whole number", hint)
		}
		n, accuracy := v.number.Int64()
		if accuracy != 0 || n < int64(low) || n > int64(high) {
			return 0, v.fault(numberText(v)+" is out of range", hint)
		}
		return V(n), nil
	}}
}

func boolean() valueType[bool] {
	return valueType[bool]{"boolean", func(v value) (bool, []fault) {
		if v.kind != kindBool {
			return false, must(v, "true or false", "Write true or false, without quotes.")
		}
		return v.flag, nil
	}}
}

// duration is a string such as "10s", from low to high.
func duration(low, high time.Duration) valueType[time.Duration] {
	span := fmt.Sprintf("%s to %s", FormatDuration(low), FormatDuration(high))
	return valueType[time.Duration]{"duration, " + span, func(v value) (time.Duration, []fault) {
		if v.kind != kindString {
			hint := `Write a number and a unit in quotes, as in "10s".`
			if v.kind == kindNumber && numberText(v) != absurdNumber {
				hint = fmt.Sprintf("Write %q.", numberText(v)+"s")
			}
			return 0, must(v, "a duration", hint)
		}
		d, err := time.ParseDuration(v.text)
		if err != nil {
			return 0, v.fault(fmt.Sprintf("%q is not a duration", v.text), durationHint(v.text))
		}
		if d < 0 {
			return 0, v.fault(fmt.Sprintf("%q is negative", v.text), fmt.Sprintf("Write a duration from %s.", span))
		}
		if d < low || d > high {
			return 0, v.fault(fmt.Sprintf("%q is out of range", v.text), fmt.Sprintf("Write a duration from %s.", span))
		}
		return d, nil
	}}
}

func durationHint(s string) string {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return fmt.Sprintf("Add the unit: %q.", s+"s")
	}
	return `Write a number and a unit (ms, s, m, h), as in "500ms", "10s" or "1m30s".`
}

// FormatDuration is the short form: "5m", not "5m0s".
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// listOf is a list; each element's faults are told.
func listOf[V any](item valueType[V]) valueType[[]V] {
	return valueType[[]V]{"list of " + item.name, func(v value) (out []V, faults []fault) {
		if v.kind != kindList {
			return nil, must(v, "a list", "Write it in brackets, as in [\"…\"].")
		}
		for _, i := range v.list {
			x, fs := item.parse(i)
			out = append(out, x)
			faults = append(faults, fs...)
		}
		return out, faults
	}}
}

// setOf is a list of words out of a few.
func setOf[V ~string](words ...V) valueType[[]V] {
	list := listOf(choice(words...))
	list.name = "list of " + quoted(words)
	return list
}

// oneOrMore is a value, or a list of 1 to most of them.
func oneOrMore[V any](item valueType[V], most int) valueType[[]V] {
	return valueType[[]V]{item.name + ", or list of them", func(v value) ([]V, []fault) {
		if v.kind != kindList {
			x, faults := item.parse(v)
			return []V{x}, faults
		}
		switch n := len(v.list); {
		case n == 0:
			return nil, v.fault("the list is empty", "Write at least one "+item.name+".")
		case n > most:
			return nil, v.fault(fmt.Sprintf("the list has %d entries", n), fmt.Sprintf("Write at most %d.", most))
		}
		return listOf(item).parse(v)
	}}
}

// renderOneOrMore writes a single value without brackets, and none, which no file can say, as "".
func renderOneOrMore[V any](vs []V) string {
	switch len(vs) {
	case 0:
		return `""`
	case 1:
		return render(vs[0])
	}
	return "[" + renderAll(vs) + "]"
}

// network is a CIDR, or an address for a network of one.
func network() valueType[netip.Prefix] {
	return parseString("network (CIDR)", func(s string) (netip.Prefix, string, string) {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			a = a.Unmap()
			return netip.PrefixFrom(a, a.BitLen()), "", ""
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, fmt.Sprintf("%q is not a network", s), `Write an address, a slash and the number of bits, as in "10.0.0.0/8" or "fd00::/8".`
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p.Masked(), "", ""
	})
}

// key is a gossip key in base64.
func key() valueType[Secret] {
	const hint = "Make one with `weir keygen`."
	return parseString("base64 of 16, 24 or 32 bytes", func(s string) (Secret, string, string) {
		if s == "" {
			return "", "", ""
		}
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return "", "is not base64", hint
		}
		if len(b) != 16 && len(b) != 24 && len(b) != 32 {
			return "", fmt.Sprintf("holds %d bytes, but a key has 16, 24 or 32", len(b)), hint
		}
		return Secret(b), "", ""
	})
}

// dnsName is a name of the API's Host check.
func dnsName() valueType[string] {
	return parseString("host name", func(s string) (string, string, string) {
		name := strings.ToLower(strings.TrimSuffix(s, "."))
		if !usableHost(name) {
			return "", fmt.Sprintf("%q is not a host name", s), `Write a name without scheme and port, as in "weir.example.com".`
		}
		return name, "", ""
	})
}

var hostPattern = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

// usableHost reports whether s is a name (in lower case) and not a badly written address: those end
// in a number.
func usableHost(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	_, err := strconv.ParseUint(last, 0, 64)
	return len(s) <= 253 && err != nil && hostPattern.MatchString(s)
}

// listenAddress is host:port to listen on; an empty host means all of the machine's addresses, port
// 0 any free port.
func listenAddress(port int) valueType[string] {
	example := fmt.Sprintf("Write an address and a port, as in \"127.0.0.1:%d\".", port)
	return parseString("address", func(s string) (string, string, string) {
		host, p, message := splitAddress(s, 0)
		switch {
		case message != "":
			return "", message, example
		case p == "":
			return "", fmt.Sprintf("%q has no port", s), fmt.Sprintf("Write %q.", net.JoinHostPort(host, strconv.Itoa(port)))
		}
		return net.JoinHostPort(host, p), "", ""
	})
}

// dialAddress is an address or name that others dial. Without a port it is answered without one.
func dialAddress(port int) valueType[string] {
	example := fmt.Sprintf("Write an address or name and a port, as in \"10.0.0.1:%d\".", port)
	return parseString("address", func(s string) (string, string, string) {
		if s == "" {
			return "", "", ""
		}
		host, p, message := splitAddress(s, 1)
		if message == "" && unspecified(host) {
			message = fmt.Sprintf("%q can't be dialled", s)
		}
		if message != "" {
			return "", message, example
		}
		if p == "" {
			return host, "", ""
		}
		return net.JoinHostPort(host, p), "", ""
	})
}

// joinAddress is a dialAddress with the gossip port filled in.
func joinAddress(port int) valueType[string] {
	dial := dialAddress(port)
	return valueType[string]{"address", func(v value) (string, []fault) {
		if v.kind == kindString && v.text == "" {
			return "", v.fault("an empty address", "Remove it.")
		}
		s, faults := dial.parse(v)
		return withPort(s, strconv.Itoa(port)), faults
	}}
}

// withPort adds a port to a host that has none; "" stays "".
func withPort(s, port string) string {
	if _, _, err := net.SplitHostPort(s); err == nil || s == "" {
		return s
	}
	return net.JoinHostPort(s, port)
}

// splitAddress takes host:port apart, and a bare host, which has the port "". The host is
// canonical.
func splitAddress(s string, lowestPort uint64) (host, port, message string) {
	bad := fmt.Sprintf("%q is not an address", s)
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), ""
	} else if port == "" {
		return "", "", fmt.Sprintf("%q has no port after the colon", s)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.Unmap().String()
	} else if host = strings.ToLower(host); (host != "" || port == "") && !usableHost(strings.TrimSuffix(host, ".")) {
		return "", "", bad
	}
	if port == "" {
		return host, "", ""
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n < lowestPort {
		return "", "", fmt.Sprintf("%q has a port out of range: %d to 65535", s, lowestPort)
	}
	return host, strconv.FormatUint(n, 10), ""
}

// unspecified reports whether a host means "all addresses of this machine".
func unspecified(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.Unmap().IsUnspecified()
}

// loopback reports whether an address to listen on is reachable from this machine alone; "" is no
// listener.
func loopback(address string) bool {
	if address == "" {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

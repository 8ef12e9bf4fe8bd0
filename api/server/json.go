package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// object is a JSON object that is decoded strictly. encoding/json alone would match names in any
// case, and let the last of two equal keys win.
type object struct {
	at     string // its place in the body, for messages: "" or "limits[3]"
	fields map[string]json.RawMessage
}

// parseBody reads a body that is one object and nothing else.
func parseBody(body []byte) (*object, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, malformed("the body is empty: send a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return nil, malformed("the body is not JSON: %s", jsonError(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("something follows the JSON object in the body, at byte %d", dec.InputOffset())
	}
	return parseObject(raw, "")
}

func parseObject(raw json.RawMessage, at string) (*object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	o := &object{at: at, fields: make(map[string]json.RawMessage)}
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		if at == "" {
			return nil, malformed("the body is not a JSON object")
		}
		return nil, invalid("%s must be an object, not %s", at, shorten(string(raw)))
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, malformed("%s is not JSON: %s", o.name(), jsonError(err))
		}
		key, _ := t.(string) // within an object, the first token of a pair is always a string
		if _, twice := o.fields[key]; twice {
			return nil, malformed("%s stands twice", o.path(key))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, malformed("%s is not JSON: %s", o.path(key), jsonError(err))
		}
		o.fields[key] = value
	}
	return o, nil
}

func jsonError(err error) string {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("%v, at byte %d", err, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "it ends too early"
	}
	return err.Error()
}

func (o *object) name() string {
	if o.at == "" {
		return "the body"
	}
	return o.at
}

func (o *object) path(key string) string {
	if o.at == "" {
		return key
	}
	return o.at + "." + key
}

// takesNothing refuses a body with fields for a call that takes none. An empty body or object is
// fine.
func takesNothing(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	o, err := parseBody(body)
	if err != nil {
		return err
	}
	return o.only()
}

// only refuses fields that are not among names.
func (o *object) only(names ...string) error {
	for key := range o.fields {
		if len(names) == 0 {
			return malformed("%s: no such field; this call takes none", o.path(key))
		}
		if !slices.Contains(names, key) {
			return malformed("%s: no such field; there are %s", o.path(key), strings.Join(names, ", "))
		}
	}
	return nil
}

// has reports whether the field is there and not null.
func (o *object) has(key string) bool {
	raw, ok := o.fields[key]
	return ok && string(raw) != "null"
}

// decode decodes a field that is present and not null into v; want says what it should be.
func (o *object) decode(key string, v any, want string) error {
	if !o.has(key) {
		return nil
	}
	if err := json.Unmarshal(o.fields[key], v); err != nil {
		return invalid("%s must be %s, not %s", o.path(key), want, shorten(string(o.fields[key])))
	}
	return nil
}

func shorten(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

package server

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/api"
)

// bodies are the types of answers; those that their fields have are found from here.
func bodies() []any {
	return []any{
		api.Problem{}, api.Health{}, api.Status{}, api.Nodes{}, api.Limits{}, api.Limit{}, api.LimitWritten{}, api.LimitDeleted{}, api.LimitsReplaced{}, api.Hosts{}, api.Host{}, api.Usages{}, api.Usage{}, api.Explanation{},
		api.ConnectionList{}, api.ConnectionClosed{}, api.Started{}, api.Reloaded{}, api.RaftPeers{}, api.RaftPeerRemoved{}, api.RaftTransfer{}, api.RaftTransferred{}, api.SnapshotRestored{}, api.NodeConfig{}, api.Logs{}, api.System{},
		api.Event{}, api.UseFrame{}, // of the event stream
	}
}

// requests are the schemas of what is read by hand, and so have no type.
var requests = []string{"LimitInput", "RateInput", "BandwidthInput", "LimitsInput"}

// TestOpenAPIHasEveryField compares the schemas with the Go types: names, types, and whether a
// field may be missing or null.
func TestOpenAPIHasEveryField(t *testing.T) {
	s := readSpec(t)
	want := map[string]string{"Duration": "string"}
	for _, body := range bodies() {
		shapesOf(reflect.TypeOf(body), want)
	}
	got := map[string]string{}
	for name, sc := range s.Components.Schemas {
		if !slices.Contains(requests, name) {
			got[name] = sc.shape()
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("types (-) and openapi.json (+): %s", diff)
	}
}

// shapesOf notes the shape of a struct, and of those that its fields have, by name.
func shapesOf(typ reflect.Type, into map[string]string) {
	if _, known := into[typ.Name()]; known {
		return
	}
	into[typ.Name()] = "" // types may refer to each other
	var fields []string
	for _, f := range reflect.VisibleFields(typ) {
		tag := f.Tag.Get("json")
		if f.Anonymous || !f.IsExported() || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		shape := shapeOf(f.Type, into)
		if f.Type.Kind() == reflect.Pointer && !optional {
			shape += "|null"
		}
		if optional {
			name += "?"
		}
		fields = append(fields, name+": "+shape)
	}
	slices.Sort(fields)
	into[typ.Name()] = "{" + strings.Join(fields, ", ") + "}"
}

func shapeOf(typ reflect.Type, into map[string]string) string {
	switch {
	case typ == reflect.TypeFor[api.Duration]():
		return "Duration"
	case typ == reflect.TypeFor[time.Time]():
		return "string"
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return shapeOf(typ.Elem(), into)
	case reflect.Struct:
		shapesOf(typ, into)
		return typ.Name()
	case reflect.Slice:
		return "[" + shapeOf(typ.Elem(), into) + "]"
	case reflect.Map:
		return "{*: " + shapeOf(typ.Elem(), into) + "}"
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Float64:
		return "number"
	}
	return "integer"
}

// shape is the schema's, written as shapeOf writes a type's.
func (s *schema) shape() string {
	if s.Ref != "" {
		return s.Ref[strings.LastIndex(s.Ref, "/")+1:]
	}
	if len(s.OneOf) == 2 {
		return s.OneOf[0].shape() + "|" + s.OneOf[1].shape()
	}
	types := s.types()
	switch types[0] {
	case "array":
		return "[" + s.Items.shape() + "]"
	case "object":
		if len(s.Properties) == 0 {
			var values schema
			if json.Unmarshal(s.AdditionalProperties, &values) != nil {
				return "{}"
			}
			return "{*: " + values.shape() + "}"
		}
		var fields []string
		for name, p := range s.Properties {
			shape := p.shape()
			if !slices.Contains(s.Required, name) {
				name += "?"
			}
			fields = append(fields, name+": "+shape)
		}
		slices.Sort(fields)
		return "{" + strings.Join(fields, ", ") + "}"
	}
	return strings.Join(types, "|")
}

func (s *schema) types() []string {
	var one string
	if json.Unmarshal(s.Type, &one) == nil {
		return []string{one}
	}
	var many []string
	_ = json.Unmarshal(s.Type, &many) // a schema without a type has none
	return append(many, "")[:max(1, len(many))]
}

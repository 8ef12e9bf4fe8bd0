package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestSettingsHideSecrets sets every secret that a Config can hold, and looks for it in what
// Settings says.
func TestSettingsHideSecrets(t *testing.T) {
	c := Default(false)
	c.Origins["proxy.listen"] = Position{File: "weir.hcl", Line: 7}
	filled := fillSecrets(reflect.ValueOf(c).Elem())
	if filled < 3 {
		t.Fatalf("only %d secrets were found", filled)
	}
	all := Settings(c)
	if text := fmt.Sprintf("%+v %q", all, all); strings.Contains(text, "s3cret") {
		t.Errorf("a secret shows: %s", text)
	}
	if len(all) != len(configFields()) {
		t.Errorf("%d settings of %d", len(all), len(configFields()))
	}
	for _, s := range all {
		if s.Path == "proxy.listen" && (s.Value != `"127.0.0.1:8080"` || s.At != "weir.hcl:7") || s.Path != "proxy.listen" && s.At != "" {
			t.Errorf("%+v", s)
		}
	}
}

// fillSecrets sets every Secret below v, one in each list of them, and returns how many.
func fillSecrets(v reflect.Value) (n int) {
	if v.Type() == reflect.TypeFor[Secret]() {
		v.SetString("s3cret")
		return 1
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				n += fillSecrets(v.Field(i))
			}
		}
	case reflect.Slice:
		if e := v.Type().Elem(); e.Kind() == reflect.Struct || e == reflect.TypeFor[Secret]() {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			n += fillSecrets(v.Index(0))
		}
	}
	return n
}

// TestSettingsOfTheFullExample: what a file sets is shown with its place.
func TestSettingsOfTheFullExample(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.hcl")
	if err := os.WriteFile(path, []byte("name = \"x\"\nrole = \"proxy\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, problems := Load([]string{path}, Options{})
	if c == nil {
		t.Fatal(problems)
	}
	for _, s := range Settings(c) {
		if s.Path == "role" && (s.Value != `"proxy"` || s.At != path+":2") {
			t.Errorf("%+v", s)
		}
	}
}

package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const kubernetes = "../kubernetes"

// object is a Kubernetes object.
type object = map[string]any

// manifests is what kubectl apply -k would send, made by the code that kubectl has it from.
func manifests(t *testing.T, dir string) []object {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("kustomize build %s: %v", dir, err)
	}
	var objects []object
	for _, r := range built.Resources() {
		o, err := r.Map()
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects
}

// at follows a path of keys and indices; nil where it leads nowhere.
func at(o any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := o.(object)
			o = m[step]
		case int:
			l, _ := o.([]any)
			if step >= len(l) {
				return nil
			}
			o = l[step]
		}
	}
	return o
}

// find is the one object of a kind and name.
func findObject(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	for _, o := range objects {
		if o["kind"] == kind && at(o, "metadata", "name") == name {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

// schemas validates objects with the OpenAPI schemas that the API server of a version publishes, as
// kubectl-validate carries them. Fields that the schemas do not know are refused, as with kubectl
// apply --validate=strict.
type schemas struct {
	dir   string
	mu    sync.Mutex
	known map[string]*jsonschema.Schema
}

func newSchemas(t *testing.T, version string) *schemas {
	t.Helper()
	// Nothing here imports the module, so that building alone does not fetch it.
	raw, err := exec.Command("go", "mod", "download", "-json", "sigs.k8s.io/kubectl-validate").Output()
	if err != nil {
		t.Fatalf("the module with the schemas can't be fetched: %v: %s", err, raw)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(raw, &module); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(module.Dir, "pkg/openapiclient/builtins", version)
	return &schemas{dir: dir, known: map[string]*jsonschema.Schema{}}
}

func (s *schemas) validate(o object) error {
	version, _ := o["apiVersion"].(string)
	kind, _ := o["kind"].(string)
	schema, err := s.of(version, kind)
	if err != nil {
		return err
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// of finds the schema of a kind.
func (s *schemas) of(version, kind string) (*jsonschema.Schema, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.known[version+" "+kind]; known != nil {
		return known, nil
	}
	path := "api/" + version
	if strings.Contains(version, "/") {
		path = "apis/" + version
	}
	b, err := os.ReadFile(filepath.Join(s.dir, path+".json"))
	if err != nil {
		return nil, fmt.Errorf("the API has no version %q: %w", version, err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	name := ""
	components, _ := at(doc, "components", "schemas").(map[string]any)
	for n, schema := range components {
		m := schema.(map[string]any)
		if _, open := m["additionalProperties"]; !open && m["properties"] != nil {
			m["additionalProperties"] = false
		}
		if at(m, "x-kubernetes-group-version-kind", 0, "kind") == kind && strings.HasPrefix(n, "io.k8s.api.") {
			name = n
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%s has no kind %q", version, kind)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("file:///"+path, doc); err != nil {
		return nil, err
	}
	schema, err := c.Compile("file:///" + path + "#/components/schemas/" + name)
	if err == nil {
		s.known[version+" "+kind] = schema
	}
	return schema, err
}

func TestKubernetesObjects(t *testing.T) {
	for _, version := range []string{"1.30"} {
		s := newSchemas(t, version)
		for dir, want := range map[string]int{kubernetes: 7, kubernetes + "/proxies": 3} {
			objects := manifests(t, dir)
			if len(objects) != want {
				t.Errorf("%s: %d objects, want %d", dir, len(objects), want)
			}
			for _, o := range objects {
				if err := s.validate(o); err != nil {
					t.Errorf("Kubernetes %s refuses the %s %v: %v", version, o["kind"], at(o, "metadata", "name"), err)
				}
				if o["kind"] != "Namespace" && at(o, "metadata", "namespace") != "weir" {
					t.Errorf("the %s %v is in no namespace", o["kind"], at(o, "metadata", "name"))
				}
			}
		}
	}
}

// The schemas refuse what an API server would: a check that accepts everything checks nothing.
func TestKubernetesSchemasRefuse(t *testing.T) {
	s := newSchemas(t, "1.30")
	for name, change := range map[string]func(set object){
		"an unknown field":   func(set object) { at(set, "spec").(object)["replica"] = 3 },
		"a wrong type":       func(set object) { at(set, "spec").(object)["replicas"] = "three" },
		"a missing field":    func(set object) { delete(at(set, "spec").(object), "selector") },
		"deep down":          func(set object) { container(set).(object)["livenesProbe"] = object{} },
		"an unknown kind":    func(set object) { set["kind"] = "StatefullSet" },
		"an unknown version": func(set object) { set["apiVersion"] = "apps/v9" },
	} {
		set := findObject(t, manifests(t, kubernetes), "StatefulSet", "weir")
		change(set)
		if err := s.validate(set); err == nil {
			t.Errorf("%s: the object is accepted", name)
		}
	}
}

func container(set object) any { return at(set, "spec", "template", "spec", "containers", 0) }

// drainTimeout reads proxy.drain_timeout of a config.
func drainTimeout(t *testing.T, path string) time.Duration {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*drain_timeout\s*=\s*"([^"]+)"`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("%s sets no drain_timeout", path)
	}
	d, err := time.ParseDuration(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// stopReserve is what a node needs beyond drain_timeout.
const stopReserve = 30 * time.Second

// What the objects say of each other, and of the config, holds.
func TestKubernetesFits(t *testing.T) {
	objects := manifests(t, kubernetes)
	proxies := manifests(t, kubernetes+"/proxies")
	set := findObject(t, objects, "StatefulSet", "weir")
	daemons := findObject(t, proxies, "DaemonSet", "weir-proxy")
	for _, w := range []struct {
		o      object
		config string
	}{{set, "server.hcl"}, {daemons, "proxies/proxy.hcl"}} {
		what := fmt.Sprint(w.o["kind"])
		pod := at(w.o, "spec", "template", "spec")
		grace, _ := strconv.Atoi(fmt.Sprint(at(pod, "terminationGracePeriodSeconds")))
		pause, _ := strconv.Atoi(fmt.Sprint(at(container(w.o), "lifecycle", "preStop", "sleep", "seconds")))
		need := time.Duration(pause)*time.Second + drainTimeout(t, filepath.Join(kubernetes, w.config)) + stopReserve
		if got := time.Duration(grace) * time.Second; pause == 0 || got < need {
			t.Errorf("%s: the pod may take %v to end, and needs %v", what, got, need)
		}
		if a, b := fmt.Sprint(at(w.o, "spec", "selector", "matchLabels")), fmt.Sprint(at(w.o, "spec", "template", "metadata", "labels")); a != b {
			t.Errorf("%s: it selects %s, and its pods are %s", what, a, b)
		}
		for probe, path := range map[string]string{"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"} {
			if got := at(container(w.o), probe, "httpGet", "path"); got != path {
				t.Errorf("%s: the %s asks %v", what, probe, got)
			}
		}
		restricted(t, what, pod)
	}
	if got := at(set, "spec", "serviceName"); got != "weir-nodes" || at(findObject(t, objects, "Service", "weir-nodes"), "spec", "publishNotReadyAddresses") != true {
		t.Errorf("the servers' service is %v, or hides servers that are not ready, which then never meet", got)
	}
	if got := at(findObject(t, objects, "ConfigMap", "weir"), "data", "weir.hcl"); got == nil {
		t.Error("the ConfigMap has no weir.hcl")
	}
	if got := fmt.Sprint(at(set, "spec", "podManagementPolicy")); got != "Parallel" {
		t.Errorf("servers are started %s: the first would wait for the others before they are started", got)
	}
}

// restricted is what the pod security standard of that name asks for.
func restricted(t *testing.T, what string, pod any) {
	t.Helper()
	c := at(pod, "containers", 0)
	for path, want := range map[string]any{
		"runAsNonRoot":         at(pod, "securityContext", "runAsNonRoot"),
		"seccompProfile":       at(pod, "securityContext", "seccompProfile", "type") == "RuntimeDefault",
		"no escalation":        at(c, "securityContext", "allowPrivilegeEscalation") == false,
		"readOnlyRoot":         at(c, "securityContext", "readOnlyRootFilesystem"),
		"drops capabilities":   fmt.Sprint(at(c, "securityContext", "capabilities", "drop")) == "[ALL]",
		"no service account":   at(pod, "automountServiceAccountToken") == false,
		"the image's own user": fmt.Sprint(at(pod, "securityContext", "runAsUser")) == "65532",
		"a memory limit":       at(c, "resources", "limits", "memory") != nil,
		"no CPU limit":         at(c, "resources", "limits", "cpu") == nil,
	} {
		if want != true {
			t.Errorf("%s: the pod is not restricted enough: %s", what, path)
		}
	}
}

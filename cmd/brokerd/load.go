package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/knadh/koanf/v2"

	"github.com/oncelog/oncelog/broker"
)

// defaultConfigFile is read when no other is named and it exists.
const defaultConfigFile = "/etc/brokerd/brokerd.yaml"

// envPrefix starts the name of every environment variable that is read.
const envPrefix = "BROKERD_"

// envConfig names the configuration file, as --config does.
const envConfig = envPrefix + "CONFIG"

// setting is one key from one source.
type setting struct {
	path   string
	value  any
	source string // "default", "FILE:LINE", "env NAME", "flag --NAME"
}

// loaded is a configuration with the origin of each value.
type loaded struct {
	config  broker.Config
	sources map[string]string // key to source, of all keys
}

// loadRequest is what a command line says about the configuration.
type loadRequest struct {
	file    string    // --config, or ""
	flags   []setting // from the command line, the strongest
	environ []string  // nil: the environment is not read
	noFile  bool
}

// load merges defaults, file, environment and flags, the later the stronger.
// All problems of all sources are reported together, as a *usageError. What it
// gives is not validated.
func load(req loadRequest) (*loaded, error) {
	s := newSchema()
	var errs []error
	var layers [][]setting
	if !req.noFile {
		settings, fileErrs := loadFile(req, s)
		layers = append(layers, settings)
		errs = append(errs, fileErrs...)
	}
	settings, envErrs := readEnviron(req.environ, s)
	layers = append(layers, settings, req.flags)
	errs = append(errs, envErrs...)
	if len(errs) > 0 {
		return nil, &usageError{errors.Join(errs...)}
	}
	return merge(slices.Insert(layers, 0, defaultSettings(layers)))
}

func loadFile(req loadRequest, s *schema) ([]setting, []error) {
	name, why := req.file, "flag --config"
	if name == "" {
		name, why = lookupEnv(req.environ, envConfig), "env "+envConfig
	}
	optional := name == ""
	if optional {
		name = defaultConfigFile
	}
	data, err := os.ReadFile(name)
	switch {
	case optional && errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, []error{fmt.Errorf("configuration file (%s): %w", why, err)}
	}
	return readYAML(name, data, s)
}

// defaultSettings are the defaults for what the other layers leave out. The
// default gRPC listener exists only where no other is configured, and the
// default Kafka listener likewise.
func defaultSettings(layers [][]setting) []setting {
	var settings []setting
	flatten("", reflect.ValueOf(broker.DefaultConfig()), func(path string, value any) {
		for _, listeners := range []string{"grpc.", "kafka."} {
			if strings.HasPrefix(path, listeners) && othersOnly(layers, listeners) {
				return
			}
		}
		settings = append(settings, setting{path: path, value: value, source: "default"})
	})
	return settings
}

// othersOnly tells whether listeners of a kind are configured, and the default
// one is not among them.
func othersOnly(layers [][]setting, listeners string) bool {
	others := false
	for _, layer := range layers {
		for _, set := range layer {
			if strings.HasPrefix(set.path, listeners+broker.DefaultListener+".") {
				return false
			}
			others = others || strings.HasPrefix(set.path, listeners)
		}
	}
	return others
}

// flatten visits every leaf of a configuration, in the order of the struct;
// listeners by name.
func flatten(path string, v reflect.Value, visit func(path string, value any)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			flatten(join(path, v.Type().Field(i).Tag.Get("koanf")), v.Field(i), visit)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			flatten(join(path, key.String()), v.MapIndex(key), visit)
		}
	default:
		visit(path, v.Interface())
	}
}

// layer gives settings to koanf.
type layer []setting

// ReadBytes is for sources that need a parser; these do not.
func (l layer) ReadBytes() ([]byte, error) { return nil, errors.ErrUnsupported }

// Read gives the settings as nested maps.
func (l layer) Read() (map[string]any, error) {
	root := map[string]any{}
	for _, set := range l {
		section, rest := root, set.path
		for {
			key, below, nested := strings.Cut(rest, ".")
			if !nested {
				section[key] = set.value
				break
			}
			child, ok := section[key].(map[string]any)
			if !ok {
				child = map[string]any{}
				section[key] = child
			}
			section, rest = child, below
		}
	}
	return root, nil
}

func merge(layers [][]setting) (*loaded, error) {
	result := &loaded{sources: map[string]string{}}
	k := koanf.New(".")
	for _, settings := range layers {
		if err := k.Load(layer(settings), nil); err != nil {
			return nil, fmt.Errorf("merge configuration: %w", err)
		}
		for _, set := range settings {
			result.sources[set.path] = set.source
		}
	}
	if err := k.Unmarshal("", &result.config); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	// A listener of which only one key was given has its other keys at zero.
	flatten("", reflect.ValueOf(result.config), func(path string, _ any) {
		if _, ok := result.sources[path]; !ok {
			result.sources[path] = "default"
		}
	})
	return result, nil
}

// validate checks the values and says where each refused one came from.
func (l *loaded) validate() error {
	err := l.config.Validate()
	if err == nil {
		return nil
	}
	problems := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		problems = joined.Unwrap()
	}
	for i, problem := range problems {
		var field *broker.FieldError
		if !errors.As(problem, &field) {
			continue
		}
		if source, ok := l.sources[field.Field]; ok && source != "default" {
			problems[i] = fmt.Errorf("%s: %w", source, problem)
		}
	}
	return &usageError{errors.Join(problems...)}
}

// serviceLink matches what container platforms put into the environment of
// every container for a service called "brokerd". It is not for us.
var serviceLink = regexp.MustCompile(`^BROKERD_(SERVICE_(HOST|PORT)|PORT)(_.*)?$`)

// readEnviron reads BROKERD_LIMITS__MAX_PARTITIONS=7 as limits.max_partitions:
// two underscores part the levels.
func readEnviron(environ []string, s *schema) ([]setting, []error) {
	var settings []setting
	var errs []error
	for _, variable := range environ {
		name, text, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || name == envConfig || serviceLink.MatchString(name) {
			continue
		}
		path := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, envPrefix), "__", "."))
		set, err := parseSetting(s, path, text, "env "+name)
		if err != nil {
			errs = append(errs, fmt.Errorf("env %s: %w", name, err))
			continue
		}
		settings = append(settings, set)
	}
	return settings, errs
}

func lookupEnv(environ []string, name string) string {
	for _, variable := range environ {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// parseSetting reads one key given as text.
func parseSetting(s *schema, path, text, source string) (setting, error) {
	t, ok := s.leaf(path)
	if !ok {
		if s.section(path) {
			return setting{}, fmt.Errorf("%q holds other keys and has no value of its own", path)
		}
		return setting{}, errors.New(s.unknown(path))
	}
	value, err := parseValue(t, text)
	if err != nil {
		return setting{}, fmt.Errorf("%s: %w", path, err)
	}
	return setting{path: path, value: value, source: source}, nil
}

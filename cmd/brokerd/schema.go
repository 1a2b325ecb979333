package main

import (
	"encoding"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/oncelog/oncelog/broker"
	"github.com/oncelog/oncelog/internal/nearest"
)

// schema is every key that a configuration may hold, read off broker.Config so
// that no key can be forgotten here.
type schema struct {
	leaves   map[string]reflect.Type // path with "*" for a name the user chooses
	sections map[string]bool         // paths that hold other keys
}

// anyName stands in a schema path for a part that the user names.
const anyName = "*"

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func newSchema() *schema {
	s := &schema{leaves: map[string]reflect.Type{}, sections: map[string]bool{}}
	s.add("", reflect.TypeFor[broker.Config]())
	return s
}

func (s *schema) add(path string, t reflect.Type) {
	switch {
	case t.Kind() == reflect.Map:
		s.sections[path] = true
		s.add(join(path, anyName), t.Elem())
	case t.Kind() == reflect.Struct:
		s.sections[path] = true
		for i := range t.NumField() {
			field := t.Field(i)
			s.add(join(path, field.Tag.Get("koanf")), field.Type)
		}
	default:
		s.leaves[path] = t
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// pattern gives the schema's path of a concrete one: grpc.internal.listen is
// grpc.*.listen.
func (s *schema) pattern(path string) string {
	parts := strings.Split(path, ".")
	for i := range parts {
		parent := strings.Join(parts[:i], ".")
		if wild := join(parent, anyName); s.sections[wild] {
			parts[i] = anyName
		}
	}
	return strings.Join(parts, ".")
}

func (s *schema) leaf(path string) (reflect.Type, bool) {
	t, ok := s.leaves[s.pattern(path)]
	return t, ok
}

func (s *schema) section(path string) bool { return s.sections[s.pattern(path)] }

// kafkaNames are settings under the name they have in Kafka.
var kafkaNames = map[string]string{
	"broker.id":                           "broker_id",
	"node.id":                             "broker_id",
	"log.dirs":                            "data_dir",
	"log.dir":                             "data_dir",
	"broker.rack":                         "rack",
	"controller.quorum.voters":            "seeds",
	"controller.quorum.bootstrap.servers": "seeds",
	"listeners":                           "kafka.NAME.listen",
	"advertised.listeners":                "kafka.NAME.advertise",
	"message.max.bytes":                   "limits.max_message_bytes",
	"max.message.bytes":                   "limits.max_message_bytes",
	"producer.id.expiration.ms":           "producer_id_expiration",
	"producer.id.expiration.check.interval.ms": "producer_id_expiration_check",
	"leader.imbalance.check.interval.seconds":  "leader_balance",
	"log.retention.check.interval.ms":          "retention_check",
}

// unknown describes a key that does not exist, with the one that was probably meant.
func (s *schema) unknown(path string) string {
	if ours, ok := kafkaNames[strings.ToLower(path)]; ok {
		return fmt.Sprintf("unknown key %q: here it is called %q", path, ours)
	}
	if near := s.nearest(path); near != "" {
		return fmt.Sprintf("unknown key %q: did you mean %q?", path, near)
	}
	return fmt.Sprintf("unknown key %q", path)
}

// nearest finds the existing key that differs least from path, or "" when none
// is near.
func (s *schema) nearest(path string) string {
	names := strings.Split(path, ".")
	best, distance := "", nearest.Most(path)+1
	for _, key := range s.keys() {
		// What the user named stays as it is.
		candidate := strings.Split(key, ".")
		for i := range candidate {
			if candidate[i] == anyName && i < len(names) {
				candidate[i] = names[i]
			}
		}
		key = strings.Join(candidate, ".")
		for _, form := range []string{key, key[strings.LastIndexByte(key, '.')+1:]} {
			d := nearest.Distance(path, form)
			if strings.HasPrefix(form, path) {
				d = 1 // Cut short.
			}
			if d < distance {
				best, distance = key, d
			}
		}
	}
	return strings.ReplaceAll(best, anyName, "NAME")
}

// keys gives all leaves and sections but the root, sorted.
func (s *schema) keys() []string {
	keys := make([]string, 0, len(s.leaves)+len(s.sections))
	for key := range s.leaves {
		keys = append(keys, key)
	}
	for key := range s.sections {
		if key != "" && !strings.HasSuffix(key, anyName) {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	return keys
}

// parseValue turns text into a value of type t, whichever source it came from.
func parseValue(t reflect.Type, text string) (any, error) {
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		v := reflect.New(t)
		if err := v.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			return nil, err
		}
		return v.Elem().Interface(), nil
	}
	if t == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%q is not a duration such as 500ms, 30s or 24h", text)
		}
		return d, nil
	}
	switch t.Kind() {
	case reflect.String:
		return text, nil
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, t.Bits())
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number of at most %d bits", text, t.Bits())
		}
		return n, nil
	case reflect.Bool:
		switch strings.TrimSpace(text) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, fmt.Errorf("%q is neither true nor false", text)
	case reflect.Slice:
		return splitList(text), nil
	default:
		return nil, fmt.Errorf("brokerd cannot read values of type %s", t)
	}
}

// splitList splits at commas; an empty text is an empty list.
func splitList(text string) []string {
	list := []string{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

package main

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// readYAML turns a configuration file into settings. Every problem is reported
// with its line, not only the first.
func readYAML(name string, data []byte, s *schema) ([]setting, []error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, []error{syntaxError(name, err)}
	}
	r := yamlReader{name: name, schema: s, seen: map[string]int{}}
	documents := 0
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if documents++; documents > 1 {
			r.fail(doc.Body, "a second document: a configuration is one document")
			break
		}
		r.section("", doc.Body)
	}
	return r.settings, r.errs
}

// syntaxError puts the parser's words into one line.
func syntaxError(name string, err error) error {
	var located interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if !errors.As(err, &located) || located.GetToken() == nil || located.GetToken().Position == nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return fmt.Errorf("%s:%d: %s", name, located.GetToken().Position.Line, located.GetMessage())
}

type yamlReader struct {
	name     string
	schema   *schema
	seen     map[string]int // key to line
	settings []setting
	errs     []error
}

func (r *yamlReader) at(n ast.Node) string {
	if token := n.GetToken(); token != nil && token.Position != nil {
		return fmt.Sprintf("%s:%d", r.name, token.Position.Line)
	}
	return r.name
}

func (r *yamlReader) fail(n ast.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: %s", r.at(n), fmt.Sprintf(format, args...)))
}

// section reads what stands under a key that holds others.
func (r *yamlReader) section(path string, n ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, value := range n.Values {
			r.entry(path, value)
		}
	case *ast.MappingValueNode:
		r.entry(path, n)
	case *ast.NullNode:
		// A section whose lines are all commented out.
	default:
		what := "the file"
		if path != "" {
			what = fmt.Sprintf("%q", path)
		}
		r.fail(n, "%s must hold keys (key: value), not %s", what, describe(n))
	}
}

func (r *yamlReader) entry(parent string, n *ast.MappingValueNode) {
	token := n.Key.GetToken()
	if token == nil || n.Key.IsMergeKey() {
		r.fail(n, "merge keys (<<) are not read here")
		return
	}
	key := token.Value
	path := join(parent, key)
	if strings.Contains(key, ".") && r.schema.section(parent) {
		if _, ok := r.schema.leaf(path); ok {
			r.fail(n.Key, "key %q has dots: write nested keys", path)
			return
		}
	}
	if line, ok := r.seen[path]; ok {
		r.fail(n.Key, "key %q stands in line %d already", path, line)
		return
	}
	if token.Position != nil {
		r.seen[path] = token.Position.Line
	}
	if _, ok := r.schema.leaf(path); ok {
		r.leaf(path, n)
		return
	}
	if r.schema.section(path) {
		r.section(path, n.Value)
		return
	}
	r.fail(n.Key, "%s", r.schema.unknown(path))
}

func (r *yamlReader) leaf(path string, n *ast.MappingValueNode) {
	t, _ := r.schema.leaf(path)
	if sequence, ok := n.Value.(*ast.SequenceNode); ok {
		r.list(path, n, sequence)
		return
	}
	text, ok := scalar(n.Value)
	if !ok {
		r.fail(n.Key, "%q must be a single value, not %s", path, describe(n.Value))
		return
	}
	value, err := parseValue(t, text)
	if err != nil {
		r.fail(n.Key, "%s: %v", path, err)
		return
	}
	r.settings = append(r.settings, setting{path: path, value: value, source: r.at(n.Key)})
}

func (r *yamlReader) list(path string, n *ast.MappingValueNode, sequence *ast.SequenceNode) {
	if t, _ := r.schema.leaf(path); t.Kind() != reflect.Slice {
		r.fail(n.Key, "%q must be a single value, not a list", path)
		return
	}
	list := []string{}
	for _, item := range sequence.Values {
		text, ok := scalar(item)
		if !ok {
			r.fail(item, "%q must list single values, not %s", path, describe(item))
			return
		}
		list = append(list, text)
	}
	r.settings = append(r.settings, setting{path: path, value: list, source: r.at(n.Key)})
}

// scalar gives the text of a single value as it was written, so that 010 or
// 1_000 mean nothing surprising.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	default:
		return "", false
	}
}

func describe(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing (remove the line for the default)"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AliasNode, *ast.AnchorNode:
		return "an anchor or alias, which are not read here"
	case *ast.TagNode:
		return "a tag, which is not read here"
	default:
		return "a " + strings.ToLower(n.Type().String())
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// table is rows under headers. Columns are as wide as they need to be, two spaces apart.
type table struct {
	headers []string
	// right holds the columns that are aligned to the right: numbers.
	right map[int]bool
	rows  [][]string
}

// newTable begins a table. A header that begins with ">" is aligned to the right.
func newTable(headers ...string) *table {
	t := &table{right: make(map[int]bool)}
	for i, h := range headers {
		name, right := strings.CutPrefix(h, ">")
		t.right[i] = right
		t.headers = append(t.headers, name)
	}
	return t
}

func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.headers))
	all := append([][]string{t.headers}, t.rows...)
	for _, row := range all {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, c := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if t.right[i] {
				line.WriteString(pad + c)
			} else {
				line.WriteString(c + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return writeTo(w, b.String())
}

// json says whether output is to be JSON.
func (p *program) json() bool { return p.flags.output == "json" }

// writeJSON writes one value, indented.
func (p *program) writeJSON(v any) error {
	e := json.NewEncoder(p.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// show writes v as JSON, or the table.
func (p *program) show(v any, t *table) error {
	if p.json() {
		return p.writeJSON(v)
	}
	return t.write(p.stdout)
}

// list writes ids as "1,2,3".
func list[T any](ids []T) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = fmt.Sprint(id)
	}
	return strings.Join(s, ",")
}

// dash is "-" for what is not there.
func dash[T ~int | ~int16 | ~int32 | ~int64](v T) string {
	if v < 0 {
		return "-"
	}
	return strconv.FormatInt(int64(v), 10)
}

// size writes bytes with a binary unit: 1.5 MiB.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	i := -1
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// units are what parseSize knows; all are binary.
var units = map[string]int64{"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30}

// parseSize reads 100, 64k, 1MiB, 2.5M: binary units.
func parseSize(s string) (int64, error) {
	num, unit := strings.TrimSpace(s), ""
	if i := strings.IndexFunc(num, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); i >= 0 {
		num, unit = num[:i], strings.ToLower(strings.TrimSpace(num[i:]))
	}
	f, err := strconv.ParseFloat(num, 64)
	if scale := units[unit]; err == nil && scale > 0 && f*float64(scale) <= 1<<50 {
		return int64(f * float64(scale)), nil
	}
	return 0, fmt.Errorf("%q is no size: want a number with k, M or G, such as 64k", s)
}

// sizeFlag is a flag that takes a size.
type sizeFlag int64

func (f *sizeFlag) String() string { return strings.ReplaceAll(size(int64(*f)), " ", "") }
func (f *sizeFlag) Type() string   { return "size" }
func (f *sizeFlag) Set(s string) error {
	n, err := parseSize(s)
	*f = sizeFlag(n)
	return err
}

// maxValue is how large generated values may be: as large as brokers can be made to take them.
const maxValue = 64 << 20

// value checks the flag as the size of a value.
func (f sizeFlag) value() error {
	if f > maxValue {
		return usagef("flag --size: %s is more than a record can have, %s", size(int64(f)), size(maxValue))
	}
	return nil
}

// shortStamp writes a time in ms since 1970 for a table, "-" for none.
func shortStamp(ms int64) string {
	if ms < 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("01-02 15:04:05")
}

// plural is "1 record", "2 records", "3 anomalies".
func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// parsePairs reads k=v arguments.
func parsePairs(flag string, pairs []string) (map[string]string, error) {
	m := make(map[string]string, len(pairs))
	for _, kv := range pairs {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usagef("flag --%s: %q, want name=value", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}

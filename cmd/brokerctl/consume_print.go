package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/oncelog/oncelog/record"
)

// recordJSON is one record as -o json shows it, one a line. Keys and values that are not text are
// in base64, in fields of their own.
type recordJSON struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Offset    record.Offset `json:"offset"`
	Timestamp int64         `json:"timestamp_ms"`
	Key       *string       `json:"key"`
	KeyBase64 string        `json:"key_base64,omitempty"`
	Value     *string       `json:"value"`
	ValueB64  string        `json:"value_base64,omitempty"`
	Headers   []headerJSON  `json:"headers,omitempty"`
	*originJSON
}

// originJSON is where a record comes from, and what became of its transaction, with --show-control.
type originJSON struct {
	ProducerID record.ProducerID `json:"producer_id"`
	Epoch      record.Epoch      `json:"producer_epoch"`
	Sequence   record.Sequence   `json:"sequence"`
	// Outcome: committed, aborted, open, plain; marker for a marker.
	Outcome string `json:"outcome"`
	// Marker is commit or abort; absent for records.
	Marker           string `json:"marker,omitempty"`
	CoordinatorEpoch *int32 `json:"coordinator_epoch,omitempty"`
}

type headerJSON struct {
	Name   string  `json:"name"`
	Value  *string `json:"value"`
	Base64 string  `json:"value_base64,omitempty"`
}

// text gives bytes as a string, or in base64 where they are none.
func text(b []byte) (*string, string) {
	if b == nil {
		return nil, ""
	}
	if !utf8.Valid(b) {
		return nil, base64.StdEncoding.EncodeToString(b)
	}
	s := string(b)
	return &s, ""
}

// shown is a record, or a marker, that is to be printed.
type shown struct {
	record.TopicPartition
	*record.Record
	batch record.Batch
	// outcome is empty where nobody has asked for it.
	outcome string
}

func (s *shown) sequence() record.Sequence {
	if s.batch.BaseSequence() == record.NoSequence {
		return record.NoSequence
	}
	return s.batch.BaseSequence().Add(int32(s.Offset - s.batch.BaseOffset()))
}

// marker gives the marker that a control batch is; nil: it is none that is known.
func (s *shown) marker() *record.Marker {
	if m, ok, err := record.ParseMarker(s.batch); ok && err == nil {
		return &m
	}
	return nil
}

// text is the value as it is printed: for a marker what it says.
func (s *shown) text() []byte {
	if !s.batch.Attributes().Control() {
		return s.Value
	}
	return []byte(cmp.Or(s.decided(), "unknown control record"))
}

// decided is what a marker says; empty: it is none.
func (s *shown) decided() string {
	switch m := s.marker(); {
	case m == nil:
		return ""
	case m.Commit:
		return "commit"
	}
	return "abort"
}

// columns of --show-control.
const columns = "%-20s  %14s  %8s  %-9s  %s"

// recordPrinter gives the function that prints a record, and says whether it needs outcomes.
func (p *program) recordPrinter(o *consumeOptions) (print func(shown) ([]byte, error), outcomes bool, err error) {
	switch {
	case p.json():
		return func(s shown) ([]byte, error) { return jsonLine(&s, o.control) }, o.control, nil
	case o.control && o.format == "":
		return func(s shown) ([]byte, error) {
			return fmt.Appendf(nil, columns+"\n", fmt.Sprintf("%d/%d", s.Partition, s.Offset), fmt.Sprintf("%v/%v", dash(s.batch.ProducerID()), dash(s.batch.ProducerEpoch())),
				fmt.Sprint(dash(s.sequence())), s.outcome, s.text()), nil
		}, true, nil
	}
	print, err = parseFormat(cmp.Or(o.format, `%s\n`))
	return print, strings.Contains(strings.ReplaceAll(o.format, "%%", ""), "%r"), err
}

func jsonLine(s *shown, control bool) ([]byte, error) {
	out := recordJSON{Topic: s.Topic, Partition: s.Partition, Offset: s.Offset, Timestamp: s.Timestamp}
	if control {
		out.originJSON = &originJSON{ProducerID: s.batch.ProducerID(), Epoch: s.batch.ProducerEpoch(), Sequence: s.sequence(), Outcome: s.outcome}
	}
	if s.batch.Attributes().Control() {
		if m := s.marker(); m != nil {
			out.Marker, out.CoordinatorEpoch = s.decided(), &m.CoordinatorEpoch
		}
	} else {
		out.Key, out.KeyBase64 = text(s.Key)
		out.Value, out.ValueB64 = text(s.Value)
		for _, h := range s.Headers {
			hj := headerJSON{Name: h.Key}
			hj.Value, hj.Base64 = text(h.Value)
			out.Headers = append(out.Headers, hj)
		}
	}
	b, err := json.Marshal(out)
	return append(b, '\n'), err
}

// parseFormat makes a printer of a --format.
func parseFormat(format string) (func(shown) ([]byte, error), error) {
	type piece func(b []byte, s *shown) []byte
	var pieces []piece
	literal := func(text string) {
		pieces = append(pieces, func(b []byte, _ *shown) []byte { return append(b, text...) })
	}
	number := func(of func(s *shown) int64) piece {
		return func(b []byte, s *shown) []byte { return strconv.AppendInt(b, of(s), 10) }
	}
	verbs := map[byte]piece{
		't': func(b []byte, s *shown) []byte { return append(b, s.Topic...) },
		'p': number(func(s *shown) int64 { return int64(s.Partition) }),
		'o': number(func(s *shown) int64 { return int64(s.Offset) }),
		'T': number(func(s *shown) int64 { return s.Timestamp }),
		'k': func(b []byte, s *shown) []byte { return append(b, s.Key...) },
		's': func(b []byte, s *shown) []byte { return append(b, s.text()...) },
		'K': func(b []byte, s *shown) []byte { return appendLength(b, s.Key) },
		'S': func(b []byte, s *shown) []byte { return appendLength(b, s.text()) },
		'i': number(func(s *shown) int64 { return int64(s.batch.ProducerID()) }),
		'e': number(func(s *shown) int64 { return int64(s.batch.ProducerEpoch()) }),
		'q': number(func(s *shown) int64 { return int64(s.sequence()) }),
		'r': func(b []byte, s *shown) []byte { return append(b, s.outcome...) },
		'h': func(b []byte, s *shown) []byte {
			for i, h := range s.Headers {
				if i > 0 {
					b = append(b, ',')
				}
				b = append(append(append(b, h.Key...), '='), h.Value...)
			}
			return b
		},
		'%': func(b []byte, _ *shown) []byte { return append(b, '%') },
	}
	escapes := map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '0': "\x00", '\\': "\\"}
	for i := 0; i < len(format); i++ {
		c := format[i]
		if c != '%' && c != '\\' {
			literal(string(c))
			continue
		}
		i++
		if i == len(format) {
			return nil, usagef("flag --format: ends with %q; %q stands for itself doubled", c, c)
		}
		if verb := verbs[format[i]]; c == '%' && verb != nil {
			pieces = append(pieces, verb)
		} else if s, ok := escapes[format[i]]; c == '\\' && ok {
			literal(s)
		} else {
			return nil, usagef("flag --format: %q is unknown (see %q)", string(c)+format[i:i+1], "brokerctl consume --help")
		}
	}
	var buf []byte
	return func(s shown) ([]byte, error) {
		buf = buf[:0]
		for _, f := range pieces {
			buf = f(buf, &s)
		}
		return buf, nil
	}, nil
}

func appendLength(b, v []byte) []byte {
	if v == nil {
		return append(b, "-1"...)
	}
	return strconv.AppendInt(b, int64(len(v)), 10)
}

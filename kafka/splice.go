package kafka

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// Stored bytes are sent bytes: the codec would copy batches into the answer that it encodes. So the answer is encoded with a
// placeholder in the place of each partition's batches, and the batches are written between the pieces.

// part is what is written in place of a placeholder: stored batches, one run after the other.
type part struct {
	runs [][]byte
	size int
}

// placeholder stands for batches. Its bytes are chosen by chance when the program starts and are never sent, so that no name of a
// client's choosing can look like it.
var placeholder = func() []byte {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // never fails
	return b
}()

// maxWrite is how much is written with one deadline.
const maxWrite = 1 << 20

// errSplice is a bug: the encoded answer does not hold the placeholders that it should.
var errSplice = errors.New("kafka: placeholder not found in an encoded answer")

// send encodes an answer and writes it.
func (c *conn) send(a *answer) error {
	if a.request.raw {
		return c.sendRaw(a)
	}
	encoded := make([]byte, 4, 256)
	encoded = appendHeader(encoded, a.request, a.response)
	encoded = a.response.AppendTo(encoded)
	pieces, size, err := splice(encoded, a.parts, a.response.IsFlexible())
	if err != nil {
		return err
	}
	if size-4 > 1<<31-1 {
		return fmt.Errorf("an answer of %d bytes", size)
	}
	binary.BigEndian.PutUint32(encoded, uint32(size-4))
	return c.writeAll(pieces)
}

// splice puts parts, in order, in the places of placeholders. The pieces refer to encoded and to the parts.
func splice(encoded []byte, parts []part, flexible bool) (pieces net.Buffers, size int, err error) {
	// A placeholder has its length before it: as int32, or as a varint of one more, which is one byte.
	prefix := 4
	if flexible {
		prefix = 1
	}
	rest := encoded
	for _, p := range parts {
		at := bytes.Index(rest, placeholder)
		if at < prefix {
			return nil, 0, errSplice
		}
		var length []byte
		if flexible {
			length = binary.AppendUvarint(nil, uint64(p.size)+1)
		} else {
			length = binary.BigEndian.AppendUint32(nil, uint32(p.size))
		}
		pieces = append(pieces, rest[:at-prefix], length)
		size += at - prefix + len(length) + p.size
		pieces = append(pieces, p.runs...)
		rest = rest[at+len(placeholder):]
	}
	return append(pieces, rest), size + len(rest), nil
}

// placed gives what stands in an answer for batches, and notes them as a part.
func (a *answer) placed(runs [][]byte, size int) []byte {
	if size == 0 {
		return []byte{}
	}
	a.parts = append(a.parts, part{runs, size})
	return placeholder
}

// writeAll writes pieces. The client must take maxWrite bytes, or what is left, within WriteTimeout.
func (c *conn) writeAll(pieces net.Buffers) error {
	for len(pieces) > 0 {
		group, size := net.Buffers(nil), 0
		for len(pieces) > 0 && size < maxWrite {
			take := pieces[0]
			if room := maxWrite - size; len(take) > room {
				take, pieces[0] = take[:room], take[room:]
			} else {
				pieces = pieces[1:]
			}
			group = append(group, take)
			size += len(take)
		}
		if err := c.writeGroup(group); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) writeGroup(group net.Buffers) error {
	c.mu.Lock()
	over := c.over
	if !over {
		_ = c.net.SetWriteDeadline(time.Now().Add(c.c.WriteTimeout)) // a connection that cannot be told this is broken
	}
	c.mu.Unlock()
	if over {
		return net.ErrClosed
	}
	if w, ok := c.net.(interface{ WriteBuffers(*net.Buffers) error }); ok {
		return w.WriteBuffers(&group)
	}
	_, err := group.WriteTo(c.net)
	return err
}

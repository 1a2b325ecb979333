package producer

// pageSize is how many values one page holds: small enough that copying a page after a clone is
// cheap, large enough that a clone of 100,000 producers copies few page pointers.
const pageSize = 32

// paged is a growing array in pages that clones share until one of them writes (copy on write).
// A shared page is never written again, so one clone may be read while another is changed.
type paged[T any] struct {
	pages []*[pageSize]T
	// own[i] says that page i belongs to this array alone and may be written in place.
	own []bool
	n   int
}

// at gives value i for reading only. The pointer is valid until the next edit or grow.
func (p *paged[T]) at(i slot) *T { return &p.pages[uint32(i)/pageSize][uint32(i)%pageSize] }

// edit gives value i for writing, after copying its page if it is shared.
func (p *paged[T]) edit(i slot) *T {
	page := uint32(i) / pageSize
	if !p.own[page] {
		fresh := *p.pages[page]
		p.pages[page] = &fresh
		p.own[page] = true
	}
	return &p.pages[page][uint32(i)%pageSize]
}

// grow adds one value and returns its place. The value is whatever lay there.
func (p *paged[T]) grow() slot {
	if p.n == len(p.pages)*pageSize {
		p.pages = append(p.pages, new([pageSize]T))
		p.own = append(p.own, true)
	}
	p.n++
	return slot(p.n - 1)
}

// clone makes a second array of the same values. Both sides copy a page before they write to it.
func (p *paged[T]) clone() paged[T] {
	clear(p.own)
	c := paged[T]{pages: make([]*[pageSize]T, len(p.pages)), own: make([]bool, len(p.pages)), n: p.n}
	copy(c.pages, p.pages)
	return c
}

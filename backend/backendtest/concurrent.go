package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/varvebackup/varve/backend"
)

// together runs f(0) to f(n-1) at the same time.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

func (s *suite) concurrentIfAbsent() {
	const writers, names = 8, 6
	errs := make([][writers]error, names)
	data := func(i int) []byte { return content(50_000+i, uint64(i)) }
	for k := range names {
		name := fmt.Sprintf("race/%d/x", k)
		together(writers, func(i int) {
			errs[k][i] = backend.PutBytes(s.ctx, s.b, name, data(i), ifAbsent)
		})
		winner := -1
		for i, err := range errs[k] {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				s.Errorf("%s: both %d and %d were first", name, winner, i)
			case !errors.Is(err, fs.ErrExist):
				s.Errorf("%s: writer %d: %v; want ErrExist", name, i, err)
			}
		}
		if winner < 0 {
			s.Fatalf("%s: nobody was first", name)
		}
		s.want(name, data(winner))
	}
}

func (s *suite) readWhileReplaced() {
	const rounds = 12
	sizes := []int{100_000, 300_001}
	full := func(k int) []byte { return bytes.Repeat([]byte{'a' + byte(k)}, sizes[k]) }
	s.put("flip", full(0))
	done := make(chan struct{})
	together(5, func(i int) {
		if i == 0 {
			defer close(done)
			for r := range rounds {
				if err := backend.PutBytes(s.ctx, s.b, "flip", full((r+1)%2), nil); err != nil {
					s.Errorf("put: %v", err)
				}
			}
			return
		}
		var buf []byte
		for {
			select {
			case <-done:
				return
			default:
			}
			var err error
			if buf, err = s.b.Get(s.ctx, "flip", 0, -1, buf[:0]); err != nil {
				s.Errorf("get while replaced: %v", err)
				return
			}
			if !bytes.Equal(buf, full(0)) && !bytes.Equal(buf, full(1)) {
				s.Errorf("get while replaced: %d bytes that nobody put", len(buf))
				return
			}
		}
	})
}

func (s *suite) listWhileChanged() {
	const stable = 20
	for i := range stable {
		s.put(fmt.Sprintf("l/%02d", i), nil)
	}
	done := make(chan struct{})
	together(4, func(i int) {
		switch i {
		case 0: // comes and goes
			defer close(done)
			for k := range 10 {
				name := fmt.Sprintf("l/%02d-x", k)
				if err := backend.PutBytes(s.ctx, s.b, name, nil, ifAbsent); err != nil {
					s.Errorf("put: %v", err)
				}
				if err := backend.PutBytes(s.ctx, s.b, "l/07", []byte(name), nil); err != nil {
					s.Errorf("put: %v", err)
				}
				if k%2 == 0 {
					if err := s.b.Delete(s.ctx, name); err != nil {
						s.Errorf("delete: %v", err)
					}
				}
			}
		default:
			for last := false; !last; {
				select {
				case <-done:
					last = true
				default:
				}
				seen := make(map[string]int)
				for info, err := range s.b.List(s.ctx, "l/") {
					if err != nil {
						s.Errorf("list while changed: %v", err)
						return
					}
					seen[info.Name]++
				}
				for i := range stable {
					if n := seen[fmt.Sprintf("l/%02d", i)]; n != 1 {
						s.Errorf("list while changed: l/%02d is listed %d times", i, n)
					}
				}
				for name, n := range seen {
					if n > 1 {
						s.Errorf("list while changed: %s is listed %d times", name, n)
					}
				}
			}
		}
	})
	if list := s.listed("l/"); len(list) != stable+5 {
		s.Errorf("%d objects at the end, want %d", len(list), stable+5)
	}
}

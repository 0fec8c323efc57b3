package repo_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/varvebackup/varve/backend"
)

// errSim is a store's failure, errCrash what a process that is gone hears.
var (
	errSim   = errors.New("sim: the store failed")
	errCrash = errors.New("sim: the process is gone")
)

type simObject struct {
	data     []byte
	modified time.Time
	step     int       // when it was put
	until    time.Time // locked; zero: it is not
}

// A simStore is the objects of one store. Only one goroutine at a time uses it, but for the quiet phase, which mu is for.
type simStore struct {
	name    string
	mu      sync.Mutex // guards what follows
	sim     *sim
	has     map[string]simObject
	past    []simChange // for lists that lag
	changes int
	// deleted hears of each pack and segment that is deleted.
	deletions int
}

// simChange is what a name was before something was put or deleted there.
type simChange struct {
	name   string
	at     time.Time // by the clock of the simulation, not cut to seconds
	there  bool
	before simObject
}

func newSimStore(s *sim, name string) *simStore {
	return &simStore{name: name, sim: s, has: map[string]simObject{}}
}

// clock is what the store dates objects with: whole seconds, sometimes the next one.
func (st *simStore) clock(roundUp bool) time.Time {
	t := time.Now().Add(st.sim.skew).Truncate(time.Second)
	if roundUp {
		t = t.Add(time.Second)
	}
	return t
}

// version is another one after each change.
func (st *simStore) version() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.changes
}

func (st *simStore) change(name string) {
	st.changes++
	o, there := st.has[name]
	st.past = append(st.past, simChange{name, time.Now(), there, o})
	if len(st.past) > 4096 {
		st.past = slices.Clone(st.past[2048:])
	}
}

func (st *simStore) put(name string, data []byte, ifAbsent, roundUp bool) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := st.has[name]; ok && ifAbsent {
		return fmt.Errorf("sim: put %s: %w", name, fs.ErrExist)
	}
	st.change(name)
	st.has[name] = simObject{data: data, modified: st.clock(roundUp), step: st.sim.steps}
	return nil
}

// become makes an object another one, behind everybody's back; without data it is gone.
func (st *simStore) become(name string, o simObject) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changes++
	if st.has[name] = o; o.data == nil {
		delete(st.has, name)
	}
}

func (st *simStore) get(name string) (simObject, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	o, ok := st.has[name]
	if !ok {
		return o, fmt.Errorf("sim: get %s: %w", name, fs.ErrNotExist)
	}
	return o, nil
}

// lock locks an object until a time.
func (st *simStore) lock(name string, until time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	o := st.has[name]
	o.until = until
	st.has[name] = o
}

func (st *simStore) delete(name string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if o, ok := st.has[name]; !ok {
		return nil
	} else if o.until.After(st.clock(false)) {
		return fmt.Errorf("sim: delete %s: %w", name, backend.ErrRetained)
	}
	if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "index/") || strings.HasPrefix(name, "snapshots/") {
		st.deletions++
	}
	st.change(name)
	delete(st.has, name)
	return nil
}

// list returns what was there at a time, by name.
func (st *simStore) list(prefix string, lag time.Duration) map[string]backend.Info {
	st.mu.Lock()
	defer st.mu.Unlock()
	found := map[string]backend.Info{}
	for name, o := range st.has {
		if strings.HasPrefix(name, prefix) {
			found[name] = backend.Info{Name: name, Size: int64(len(o.data)), Modified: o.modified}
		}
	}
	if lag > 0 {
		then := time.Now().Add(-lag)
		for _, c := range slices.Backward(st.past) {
			if !c.at.After(then) {
				break
			}
			if !strings.HasPrefix(c.name, prefix) {
				continue
			}
			if c.there {
				found[c.name] = backend.Info{Name: c.name, Size: int64(len(c.before.data)), Modified: c.before.modified}
			} else {
				delete(found, c.name)
			}
		}
	}
	return found
}

func (st *simStore) names(prefix string) []string {
	return slices.Sorted(maps.Keys(st.list(prefix, 0)))
}

type simKind byte

const (
	simPut simKind = iota
	simGet
	simStat
	simList
	simDelete
)

func (k simKind) String() string { return [...]string{"put", "get", "stat", "list", "delete"}[k] }

// A simOp is an operation of an actor that waits for the scheduler.
type simOp struct {
	actor    *simActor
	life     int
	act      *simAction
	ctx      context.Context
	store    *simStore
	kind     simKind
	name     string
	data     []byte // of a put; the object's, of a get
	ifAbsent bool
	until    time.Time // of a put: it locks the object; of a stat: it is locked
	off, n   int64
	retried  int
	held     bool // somebody has slept before it

	began  map[string]backend.Info // of a list that is under way
	listed []backend.Info
	info   backend.Info
	err    error
	done   chan struct{} // closed when the reply is there
}

func (a *simOp) compare(b *simOp) int {
	return cmp.Or(cmp.Compare(a.actor.n, b.actor.n), cmp.Compare(a.kind, b.kind), cmp.Compare(a.store.name, b.store.name), cmp.Compare(a.name, b.name),
		cmp.Compare(a.off, b.off), cmp.Compare(a.n, b.n), bytes.Compare(a.data, b.data), cmp.Compare(a.retried, b.retried))
}

// A simBackend is a store as one life of an actor sees it. A nil actor asks it directly, without the scheduler.
type simBackend struct {
	store *simStore
	actor *simActor
	life  int
}

// do hands an operation to the scheduler and waits for the reply.
func (b *simBackend) do(ctx context.Context, op *simOp) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	op.store = b.store
	if b.actor == nil || b.actor.direct {
		op.actor = b.actor
		op.carryOut(false)
		if op.err == nil && op.kind == simList {
			op.listed = slices.SortedFunc(maps.Values(op.began), func(a, b backend.Info) int { return strings.Compare(a.Name, b.Name) })
		}
		return op.err
	}
	op.actor, op.life, op.ctx, op.done = b.actor, b.life, ctx, make(chan struct{})
	s := b.actor.sim
	s.mu.Lock()
	if b.actor.life != b.life {
		s.mu.Unlock()
		return errCrash
	}
	op.act = b.actor.act
	s.pending = append(s.pending, op)
	s.mu.Unlock()
	<-op.done
	return op.err
}

// carryOut does what the operation says in the store. A list is begun.
func (op *simOp) carryOut(roundUp bool) {
	st := op.store
	switch op.kind {
	case simPut:
		if op.err = st.put(op.name, op.data, op.ifAbsent, roundUp); op.err == nil && !op.until.IsZero() {
			st.lock(op.name, op.until)
		}
	case simGet:
		var o simObject
		if o, op.err = st.get(op.name); op.err == nil {
			size := int64(len(o.data))
			if op.off > size || op.n > size-op.off {
				op.err = fmt.Errorf("sim: get %s: %w", op.name, io.ErrUnexpectedEOF)
				return
			}
			n := op.n
			if n < 0 {
				n = size - op.off
			}
			op.data = o.data[op.off : op.off+n]
		}
	case simStat:
		var o simObject
		if o, op.err = st.get(op.name); op.err == nil {
			op.info, op.until = backend.Info{Name: op.name, Size: int64(len(o.data)), Modified: o.modified}, o.until
		}
	case simList:
		lag := time.Duration(0)
		if op.actor != nil && !op.actor.direct {
			lag = st.sim.lagOf(op)
		}
		op.began, op.err = st.list(op.name, lag), nil
	case simDelete:
		op.err = st.delete(op.name)
	}
}

func (b *simBackend) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	data := make([]byte, size)
	if _, err := r.ReadAt(data, 0); err != nil && err != io.EOF {
		return err
	}
	op := &simOp{kind: simPut, name: name, data: data}
	if cfg := &b.store.sim.cfg; o != nil {
		if o.IfAbsent && cfg.plain || !o.Retain.IsZero() && cfg.lock == 0 {
			return fmt.Errorf("sim: put %s: %w", name, errors.ErrUnsupported)
		}
		op.ifAbsent, op.until = o.IfAbsent, o.Retain.Until
	}
	return b.do(ctx, op)
}

func (b *simBackend) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	op := &simOp{kind: simGet, name: name, off: off, n: n}
	if err := b.do(ctx, op); err != nil {
		return dst, err
	}
	return append(dst, op.data...), nil
}

func (b *simBackend) Stat(ctx context.Context, name string) (backend.Info, error) {
	op := &simOp{kind: simStat, name: name}
	err := b.do(ctx, op)
	return op.info, err
}

func (b *simBackend) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		op := &simOp{kind: simList, name: prefix}
		if err := b.do(ctx, op); err != nil {
			yield(backend.Info{}, err)
			return
		}
		for _, info := range op.listed {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (b *simBackend) Delete(ctx context.Context, name string) error {
	return b.do(ctx, &simOp{kind: simDelete, name: name})
}

// Retention implements backend.Retainer.
func (b *simBackend) Retention(ctx context.Context, name, version string) (backend.Retention, error) {
	op := &simOp{kind: simStat, name: name}
	if err := b.do(ctx, op); err != nil || !op.until.After(b.store.clock(false)) {
		return backend.Retention{}, err
	}
	return backend.Retention{Mode: backend.Compliance, Until: op.until}, nil
}

// Retain implements backend.Retainer.
func (b *simBackend) Retain(ctx context.Context, name, version string, r backend.Retention) error {
	return fmt.Errorf("sim: retain %s: %w", name, errors.ErrUnsupported)
}

// Shorten implements backend.Retainer.
func (b *simBackend) Shorten(ctx context.Context, name, version string, r backend.Retention) error {
	return fmt.Errorf("sim: shorten %s: %w", name, errors.ErrUnsupported)
}

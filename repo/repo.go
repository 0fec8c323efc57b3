// Package repo is the backup engine: it turns an fs.FS into a snapshot in a backend, and a snapshot into an fs.FS or a folder.
//
//	r, err := repo.Open(ctx, store, crypt.Passphrase(secret), &repo.Options{Cache: "/var/cache/shop"})
//	defer r.Close()
//	snap, err := r.Backup(ctx, "shop", source.Join{"db": dump, "uploads": uploads}, nil)
//	fsys, err := r.FS(ctx, snap)
//
// Snapshots are encrypted and deduplicated: one costs what changed since anything that the repository holds. Every object is put once and
// never changed; any number of backups, in one process or many, may run at once without a lock. A Backup that returned a snapshot can
// be restored, whoever crashed or wrote or pruned beside it. A Backup that fails leaves no snapshot and harms none, and what it stored serves the next one.
//
// The bytes are specified in docs/FORMAT.md, the protocol between sessions and maintenance in docs/DESIGN.md.
package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
)

// Version is the version of this program, as snapshots record it.
const Version = "0.1.0"

var (
	// ErrIncomplete says that a snapshot was made, but that some files could not be read, or changed while they were. They are listed in it.
	ErrIncomplete = errors.New("repo: some files could not be read")
	// ErrBusy says that something else has to end first.
	ErrBusy = errors.New("repo: busy")
	// ErrFresh says that the series has a snapshot younger than MinAge: none was made.
	ErrFresh = errors.New("repo: the newest snapshot is recent enough")
	// ErrVoid says that maintenance closed a session that had shown no life for two days: its snapshot was not made.
	ErrVoid = errors.New("repo: the session was closed by maintenance")
	// ErrUncertain says that the store did not tell whether it took the snapshot: it may be there. With any other error of Backup, the store had none when it was asked.
	ErrUncertain = errors.New("repo: it is not known whether the snapshot was made")
	// ErrRole says that the key at hand may not do this.
	ErrRole = crypt.ErrRole
	// ErrNoRepository says that a backend holds no repository.
	ErrNoRepository = errors.New("repo: no repository there")
	// ErrExists says that a backend holds a repository, or something else, already.
	ErrExists = errors.New("repo: something is there already")
)

// A DamageError says that an object is not what it was, or not there.
type DamageError struct {
	Object string // its name
	Err    error  // what is wrong with it; fs.ErrNotExist when it is missing
}

func (e *DamageError) Error() string { return fmt.Sprintf("repo: damaged %s: %v", e.Object, e.Err) }
func (e *DamageError) Unwrap() error { return e.Err }

// Options are for Create and Open. The zero value is good.
type Options struct {
	// Cache is a folder for what can be fetched or computed again: opened index segments, manifests, and what is needed to skip unchanged
	// files without reading them. Repositories share it without harm; it is made if missing. It holds names of files and of repository objects, so it
	// is as private as the files themselves. Empty: no cache, each call asks the backend.
	Cache string
	// MaxMemory bounds the buffers of one running Backup, Restore or Check in bytes, the index aside. 0: 64 MiB, which is also the least.
	MaxMemory int64
	// Workers is how many goroutines name, compress and decrypt. 0: one for each processor.
	Workers int
	// Replicas are read from when an object is damaged or missing in the repository itself, the first of them first: what Replicate made of it, on another disk or at another
	// provider. They serve Snapshots, FS, Restore and Diff. A Backup and all else that changes or judges the repository leaves them alone.
	Replicas []backend.Backend
	// Lock is for Create: what is put is locked. See SetLock.
	Lock Lock
	// Logger hears of what heals itself and needs nobody's attention. Nil: nobody.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.MaxMemory = max(d.MaxMemory, 64<<20)
	if d.Workers <= 0 {
		d.Workers = runtime.GOMAXPROCS(0)
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}

// A Repo is an open repository. It is safe for concurrent use, also of several backups at once.
type Repo struct {
	backend *store
	own     *Repo // the same without replicas, which is what writes and judges; itself if there are none
	keys    *crypt.Keys
	slot    string // the id of the slot that was unlocked
	config  *config
	broken  *DamageError // why there is no config
	opts    Options
	cache   *cache
	namers  sync.Pool // of *crypt.Namer

	mu     sync.Mutex // guards view
	view   *view      // for reading; nil before it is first needed and when it is out of date
	closed bool
}

// Create makes a repository in an empty backend and opens it. What u unlocks is an owner's slot. The key that comes back opens
// a second owner's slot, for the day on which the passphrase is lost: it is stored nowhere and cannot be had again.
//
// ErrExists: the backend is not empty. errors.ErrUnsupported: Options.Lock wants what the backend has not; nothing is left behind then.
func Create(ctx context.Context, b backend.Backend, u crypt.Unlocker, o *Options) (*Repo, crypt.RawKey, error) {
	fail := func(err error) (*Repo, crypt.RawKey, error) {
		return nil, crypt.RawKey{}, fmt.Errorf("create a repository: %w", err)
	}
	if found, err := anything(ctx, b); err != nil {
		return fail(err)
	} else if strings.HasPrefix(found, configPrefix) {
		return fail(fmt.Errorf("%w: a repository (%s)", ErrExists, found))
	} else if found != "" {
		return fail(fmt.Errorf("%w: %s", ErrExists, found))
	}
	opts := o.withDefaults()
	opts.Replicas = nil
	if err := opts.Lock.valid(); err != nil {
		return fail(err)
	}
	keys, err := crypt.NewKeys()
	if err != nil {
		return fail(err)
	}
	recovery, err := crypt.NewKey()
	if err != nil {
		return fail(err)
	}
	cfg := newConfig(keys)
	if cfg.NoPutIfAbsent, err = lacksPutIfAbsent(ctx, b); err != nil {
		return fail(err)
	}
	// Whatever can fail does so before there is a repository, for with the error the recovery key would be lost.
	cfg.setLock(opts.Lock)
	r, err := newRepo(newStore(b, &opts), keys, "", &opts)
	if err != nil {
		return fail(err)
	}
	r.configure(cfg, nil)
	if r.slot, err = r.establish(ctx, u, recovery); err != nil {
		return fail(err)
	}
	return r, recovery, nil
}

// establish puts the first slots and then the config, which makes the repository: until then nothing opens, and whoever puts it first wins. After an error it takes
// its slots back.
func (r *Repo) establish(ctx context.Context, u, recovery crypt.Unlocker) (slot string, err error) {
	var put []string
	defer func() {
		if err == nil {
			return
		}
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), times.grace)
		defer cancel()
		// The store may have taken the config all the same; without slots nobody could open it.
		object, gerr := r.backend.Get(cctx, configName(1), 0, -1, nil)
		if gerr == nil {
			_, _, gerr = r.openObject(configName(1), object, crypt.KindConfig)
		}
		if gerr == nil {
			return
		}
		for _, name := range put {
			r.backend.Delete(cctx, name) // what stays opens nothing
		}
	}()
	labels := []string{"first", "recovery"}
	for i, unlocker := range []crypt.Unlocker{u, recovery} {
		s, object, err := r.keys.NewSlot(ctx, unlocker, labels[i])
		if err != nil {
			return "", err
		}
		put = append(put, s.Name())
		if err := putOnce(ctx, r.backend, s.Name(), object); err != nil {
			return "", err
		}
		if i == 0 {
			slot = s.ID
		}
	}
	object, err := r.config.seal(r.keys, 1)
	if err != nil {
		return "", err
	}
	if err := putOnce(ctx, r.backend, configName(1), object); errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%w: a repository, made at the same time", ErrExists)
	} else if err != nil {
		return "", err
	}
	return slot, nil
}

// Open opens the repository in b with one of its slots.
//
// ErrNoRepository: there is none. crypt.ErrWrongKey: u opens no slot. *crypt.VersionError: it was written by a newer version of this program. A
// damaged or missing config is no error here: what can be read without it can be read.
func Open(ctx context.Context, b backend.Backend, u crypt.Unlocker, o *Options) (*Repo, error) {
	r, err := open(ctx, b, u, o)
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	return r, nil
}

func open(ctx context.Context, b backend.Backend, u crypt.Unlocker, o *Options) (*Repo, error) {
	opts := o.withDefaults()
	from := newStore(b, &opts)
	names, err := listNames(ctx, from, keysPrefix)
	if err != nil {
		return nil, err
	}
	configs, err := listNames(ctx, from, configPrefix)
	if err != nil {
		return nil, err
	}
	switch {
	case len(configs) == 0:
		found, err := anything(ctx, from)
		switch {
		case err != nil:
			return nil, err
		case found == "" && len(names) > 0:
			return nil, fmt.Errorf("%w: what is there was left by making one that did not come to its end", ErrNoRepository)
		case found == "":
			return nil, ErrNoRepository
		case len(names) == 0:
			return nil, fmt.Errorf("%w: what is there is something else (%s)", ErrNoRepository, found)
		}
	case len(names) == 0:
		return nil, fmt.Errorf("every slot under keys/ is gone: %w", &DamageError{Object: keysPrefix, Err: fs.ErrNotExist})
	}
	names = preferSlot(opts.Cache, names)

	var damage, later error
	var fallback *Repo
	tried := 0
	for _, name := range names {
		object, err := from.read(ctx, name, func(object []byte) error {
			_, err := crypt.ParseSlot(name, object)
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		} else if errors.Is(err, crypt.ErrDamaged) {
			damage = err
			continue
		} else if err != nil {
			return nil, err
		}
		slot, err := crypt.ParseSlot(name, object)
		if v, ok := errors.AsType[*crypt.VersionError](err); ok {
			later = v // another slot may still open
			continue
		} else if err != nil {
			damage = err
			continue
		}
		if tried++; tried > maxSlots {
			return nil, fmt.Errorf("the first %d slots: %w", maxSlots, crypt.ErrWrongKey)
		}
		keys, err := slot.Unlock(ctx, u)
		switch {
		case errors.Is(err, crypt.ErrWrongKey):
			continue
		case errors.Is(err, crypt.ErrDamaged):
			damage = err
			continue
		case err != nil:
			return nil, err
		}
		cfg, _, err := loadConfig(ctx, from, keys, configs)
		broken, isBroken := errors.AsType[*DamageError](err)
		if err != nil && !isBroken {
			return nil, err
		}
		own := *from
		r, err := newRepo(&own, keys, slot.ID, &opts)
		if err != nil {
			return nil, err
		}
		r.configure(cfg, broken)
		if err := r.alone(ctx); err != nil {
			return nil, err
		}
		if broken == nil {
			rememberSlot(opts.Cache, name)
			return r, nil
		}
		// Either the config is damaged, or this slot is of another repository: one that a Create left behind when it lost a race. Another
		// slot that u opens may tell.
		if fallback == nil {
			fallback = r
		}
	}
	switch {
	case fallback != nil:
		return fallback, nil
	case later != nil:
		return nil, later
	case damage != nil:
		return nil, fmt.Errorf("%w; one slot is damaged: %v", crypt.ErrWrongKey, damage)
	}
	return nil, crypt.ErrWrongKey
}

// newRepo uses s as it is.
func newRepo(s *store, keys *crypt.Keys, slot string, o *Options) (*Repo, error) {
	opts := o.withDefaults()
	c, err := openCache(opts.Cache, keys)
	if err != nil {
		return nil, err
	}
	r := &Repo{backend: s, keys: keys, slot: slot, opts: opts, cache: c}
	r.own = r
	return r, nil
}

// configure takes over the config, or why there is none.
func (r *Repo) configure(c *config, broken *DamageError) {
	r.config, r.broken = c, broken
	if c != nil {
		c.apply(r.backend)
	}
}

// alone makes own: with the config that the repository itself has.
func (r *Repo) alone(ctx context.Context) error {
	if len(r.opts.Replicas) == 0 {
		return nil
	}
	own := &Repo{backend: &store{Backend: r.backend.Backend, log: r.opts.Logger}, keys: r.keys, slot: r.slot, opts: r.opts, cache: r.cache}
	own.own = own
	own.opts.Replicas = nil
	names, err := listNames(ctx, own.backend, configPrefix)
	if err != nil {
		return err
	}
	cfg, _, err := loadConfig(ctx, own.backend, r.keys, names)
	broken, isBroken := errors.AsType[*DamageError](err)
	if err != nil && !isBroken {
		return err
	}
	own.configure(cfg, broken)
	r.own = own
	return nil
}

// id names data as a blob of kind.
func (r *Repo) id(kind uint8, data []byte) pack.ID {
	n, ok := r.namers.Get().(*crypt.Namer)
	if !ok {
		n = r.keys.Namer()
	}
	defer r.namers.Put(n)
	switch kind {
	case crypt.SectionTree:
		return n.Tree(data)
	case crypt.SectionHint:
		return n.Hint(data)
	}
	return n.Content(data)
}

// Close lets go of what the Repo holds in memory. The backend stays the caller's.
func (r *Repo) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view, r.closed = nil, true
	return nil
}

// Role returns what the key at hand may do.
func (r *Repo) Role() crypt.Role { return r.keys.Role() }

// ID returns the repository's id in hex.
func (r *Repo) ID() string {
	id := r.keys.Repository()
	return fmt.Sprintf("%x", id[:])
}

// anything returns the name of some object in b, a config if there is one, "" if b is empty. Slots that a Create left behind and probes, and nothing else, are as good as empty.
func anything(ctx context.Context, b backend.Backend) (string, error) {
	for _, prefix := range []string{configPrefix, ""} {
		for info, err := range b.List(ctx, prefix) {
			if err != nil {
				return "", err
			}
			if !strings.HasPrefix(info.Name, keysPrefix) && !isProbe(info.Name) {
				return info.Name, nil
			}
		}
	}
	return "", nil
}

// lacksPutIfAbsent tries whether the store keeps its word.
func lacksPutIfAbsent(ctx context.Context, b backend.Backend) (lacks bool, err error) {
	name := probePrefix + randomHex(8)
	defer func() {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), times.grace)
		defer cancel()
		// Where nothing can be deleted, or all is locked, the probe stays and harms nothing.
		if derr := b.Delete(dctx, name); err == nil && !errors.Is(derr, fs.ErrPermission) && !errors.Is(derr, backend.ErrRetained) {
			err = derr
		}
	}()
	once := &backend.PutOptions{IfAbsent: true}
	switch err := backend.PutBytes(ctx, b, name, crypt.AppendHash([]byte("first\n")), once); {
	case errors.Is(err, errors.ErrUnsupported):
		return true, nil
	case err != nil:
		return false, err
	}
	switch err := backend.PutBytes(ctx, b, name, crypt.AppendHash([]byte("second\n")), once); {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

// putOnce puts an object that must not be there yet. What is there already and is the same is one's own earlier try. fs.ErrExist: something else is there.
func putOnce(ctx context.Context, b backend.Backend, name string, object []byte) error {
	return putWith(ctx, b, name, object, func(o *backend.PutOptions) error { return backend.PutBytes(ctx, b, name, object, o) })
}

// putWith is putOnce by means of put.
func putWith(ctx context.Context, b backend.Backend, name string, object []byte, put func(*backend.PutOptions) error) error {
	const tries = 5
	for try := 1; ; try++ {
		err := put(&backend.PutOptions{IfAbsent: true})
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		err = sameThere(ctx, b, name, object, err)
		// It was there and is gone: whoever sleeps between the two may find that a collection has replaced a segment.
		if !errors.Is(err, fs.ErrNotExist) || try == tries {
			return err
		}
	}
}

// sameThere returns nil if a store holds the same object already, else exists, which is why it was not put.
func sameThere(ctx context.Context, b backend.Backend, name string, object []byte, exists error) error {
	if broken.existsIsMine {
		return nil
	}
	there, rerr := b.Get(ctx, name, 0, -1, nil)
	if rerr != nil {
		return errors.Join(exists, rerr)
	}
	if string(there) != string(object) {
		return exists
	}
	return nil
}

// protocol is the times of the protocol between sessions and maintenance. Tests scale it; it is never an option.
type protocol struct {
	renew  time.Duration // between renewals of a session's marker
	expire time.Duration // without a renewal for so long, a session may be closed by maintenance
	lag    time.Duration // between candidates and verdict
	racy   time.Duration // a change token whose times are this close to the session's beginning is not trusted
	grace  time.Duration // for the last words of a session that was cancelled

	segment time.Duration // between segments, however little they name

	margin time.Duration // packs younger than this are no candidates
	undo   time.Duration // what was forgotten can be taken back for so long
	slack  time.Duration // and is kept for so much longer
	follow time.Duration // a replica keeps what its source freed for so long, unless it is told otherwise: time to find out that it was not the owner who freed it
	trust  time.Duration // a snapshot whose own time differs from the store's by more makes no other one forgettable
}

var times = protocol{
	renew:  time.Hour,
	expire: 48 * time.Hour,
	lag:    time.Hour,
	racy:   2 * time.Second,
	grace:  10 * time.Second,

	segment: 30 * time.Second,

	margin: 49 * time.Hour,
	undo:   UndoWindow,
	slack:  48 * time.Hour,
	follow: 30 * 24 * time.Hour,
	trust:  48 * time.Hour,
}

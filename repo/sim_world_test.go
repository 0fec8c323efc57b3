package repo_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// simTimes are the protocol's times of one run. Scaled ones are so short that a tick of the store's clock is a good part of each.
type simTimes struct{ lag, renew, expire, margin, undo, slack, follow time.Duration }

// simTimesOf returns times in the proportions of the protocol, or in such that little happens between two collections.
func simTimesOf(lag time.Duration, short bool) simTimes {
	if short {
		return simTimes{lag: lag, renew: lag, expire: 6 * lag, margin: 7 * lag, undo: 10 * lag, slack: 4 * lag, follow: 20 * lag}
	}
	return simTimes{lag: lag, renew: lag, expire: 48 * lag, margin: 49 * lag, undo: 7 * 24 * lag, slack: 48 * lag, follow: 30 * 24 * lag}
}

// simConfig is what may happen in one run. Zero: nothing goes wrong.
type simConfig struct {
	writers, maintainers int
	reader               bool
	replica              bool // a replicator, and somebody who reads there
	replicaWriter        bool // who also backs up there
	follower             bool // who frees at the replica what the source freed
	heals                bool
	exclusive            bool
	maintainerRole       crypt.Role
	times                simTimes
	actions              int

	slow, fail, lost, late, crash, cancel, sleep, split, corrupt, advance float64
	hold                                                                  float64 // that somebody sleeps before what others have to see
	edge                                                                  float64 // that time passes until just about when something is due
	returns                                                               float64 // that contents that were dropped come back
	forgets                                                               float64 // that a collector forgets all but the newest
	rot                                                                   float64 // that a manifest or a segment cannot be read for a while
	coarse                                                                bool    // actors go on from one telling operation to the next
	lagAll, lagSessions                                                   bool
	roundUp                                                               bool
	skew                                                                  time.Duration
	cache, keepOpen                                                       float64
	deltas, forger, many                                                  bool
	plain                                                                 bool          // the stores have no put-if-absent
	lock                                                                  time.Duration // of what is put; 0: none
}

func simConfigOf(seed uint64) simConfig {
	rng := rand.New(rand.NewPCG(seed, 1))
	some := func(p float64, of float64) float64 {
		if rng.Float64() < p {
			return of * (0.2 + 0.8*rng.Float64())
		}
		return 0
	}
	c := simConfig{writers: 1 + rng.IntN(3), maintainers: 1 + rng.IntN(2), actions: 30 + rng.IntN(50), maintainerRole: crypt.Owner}
	lag := time.Hour
	if rng.IntN(2) == 0 {
		lag = 4 * time.Second
	}
	c.times = simTimesOf(lag, rng.IntN(4) > 0)
	if rng.IntN(3) == 0 {
		c.maintainerRole = crypt.Maintainer
	}
	c.reader = rng.IntN(3) == 0
	c.replica = rng.IntN(3) == 0
	c.replicaWriter = c.replica && rng.IntN(2) == 0
	c.heals = c.replica && !c.replicaWriter && rng.IntN(2) == 0
	c.exclusive = rng.IntN(4) == 0
	c.slow, c.fail, c.lost, c.late = some(0.7, 0.5), some(0.4, 0.02), some(0.5, 0.03), some(0.5, 0.05)
	c.crash, c.cancel, c.sleep, c.split = some(0.6, 0.01), some(0.3, 0.005), some(0.7, 0.03), some(0.6, 0.7)
	c.corrupt, c.advance = some(0.2, 0.02), some(0.8, 0.02)
	c.cache, c.keepOpen = some(0.7, 1), some(0.5, 1)
	c.hold, c.edge, c.returns, c.forgets = some(0.7, 0.5), some(0.7, 0.7), 0.1+some(0.7, 0.6), some(0.6, 0.5)
	c.rot = some(0.3, 0.01)
	if c.coarse = rng.IntN(5) < 2; c.coarse {
		c.edge, c.returns, c.forgets = 0.3+0.6*rng.Float64(), 0.6, 0.5
	}
	switch rng.IntN(5) {
	case 0:
		c.lagAll = true
	case 1:
		c.lagSessions = true
	}
	c.exclusive = c.exclusive && !c.lagAll && !c.lagSessions // it has no lag to wait out
	c.roundUp = !c.lagSessions && rng.IntN(3) == 0
	if rng.IntN(3) == 0 {
		c.skew = time.Duration(rng.Int64N(int64(40*time.Hour))) - 20*time.Hour
	}
	c.deltas, c.many, c.forger = rng.IntN(3) == 0, rng.IntN(12) == 0, rng.IntN(8) == 0
	c.deltas = c.deltas && !c.forger // what is made with a forged base is hurt, too
	c.follower = c.replica && rng.IntN(2) == 0
	return c
}

// A simSnap is what a session was to back up.
type simSnap struct {
	id       string
	store    *simStore
	by       *simActor
	tree     map[string][]byte
	promised bool // Backup returned it, or Unforget took it back
	excused  bool // it has contents that somebody forged before
}

// A simActor is one process that uses the library.
type simActor struct {
	n       int
	name    string
	sim     *sim
	home    *simStore
	key     crypt.RawKey
	cache   string
	repo    *repo.Repo
	direct  bool
	asleep  time.Time // until then it does nothing
	actions int
	tree    map[string][]byte // a writer's source

	life int        // guarded by sim.mu
	act  *simAction // what it does now; nil when it is idle
}

// A simAction is one call of the library.
type simAction struct {
	kind      string
	ctx       context.Context
	cancel    context.CancelFunc
	run       func(ctx context.Context, r *repo.Repo) error
	after     func(error) // in the scheduler
	begun     int
	crashed   bool
	cancelled bool
	failed    bool // the store failed for it
	overtaken bool // something late came meanwhile
	corrupted bool // it may have read something else than was put
	exclusive bool
	keeps     time.Duration     // how long a replica keeps what its source freed
	keyless   bool              // it opens no repository
	tree      map[string][]byte // what it backs up
	sessions  []string
	looked    bool // it has listed the index
	readBack  int  // step of the last look at the commit's place
	packs     int  // that it deleted
	finished  bool
	err       error
}

type sim struct {
	t       *testing.T
	seed    uint64
	cfg     simConfig
	rng     *rand.Rand
	skew    time.Duration
	main    *simStore
	replica *simStore
	actors  []*simActor
	snaps   map[string]*simSnap
	forged  map[string]bool
	steps   int
	current string // whose turn it is
	late    []*simOp
	rot     *simRot
	tainted bool      // something rotted that a replicator may have left out since
	mover   *simActor // whose turn it is until something telling comes, if the run is coarse
	oracles map[*simStore]*repo.Repo
	fresh   map[*simStore]int // what version of a store its oracle has seen
	owner   crypt.RawKey
	roles   map[crypt.Role]crypt.RawKey
	deltas  *int
	seen    map[*simStore]int // deletions that were looked into
	stats   map[string]int
	begun   int  // actions
	idled   bool // somebody just came to the end of an action

	verbose bool
	log     hash.Hash
	lines   []string

	// What a directed run says instead of chance: whether a list has a name that was put or deleted while it went on, how far one lags, and whether one takes time.
	listed func(op *simOp, name string) bool
	lags   func(op *simOp) time.Duration
	splits func(op *simOp) bool
	fails  func(op *simOp) bool // whether it fails
	drops  bool                 // what is under way in a crash never comes
	flips  func(op *simOp) bool // whether what is read is not what is there

	broke string // the invariant that did not hold
	why   string

	mu      sync.Mutex // guards what follows, and of actors what says so
	pending []*simOp
	draws   map[string]uint64
}

// simRandom is the source of randomness: what is drawn depends on who draws, where, and how often, and so not on the order in which goroutines run.
type simRandom struct{ s *sim }

func (r simRandom) Read(b []byte) (int, error) {
	var pcs [12]uintptr
	n := runtime.Callers(3, pcs[:])
	var site strings.Builder
	frames := runtime.CallersFrames(pcs[:n])
	for {
		f, more := frames.Next()
		if i := strings.LastIndexByte(f.Function, '/'); strings.Contains(f.Function, "varvebackup") {
			site.WriteString(f.Function[i+1:])
			site.WriteByte('<')
		}
		if !more {
			break
		}
	}
	r.s.mu.Lock()
	key := r.s.current + " " + site.String()
	r.s.draws[key]++
	key = fmt.Sprint(r.s.seed, " ", r.s.draws[key], " ", key)
	r.s.mu.Unlock()
	rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(b)
	return len(b), nil
}

// turn says whose goroutines run next.
func (s *sim) turn(who string) {
	cryptotest.SetGlobalRandom(s.t, s.seed<<24+uint64(s.steps))
	cryptorand.Reader = simRandom{s}
	s.mu.Lock()
	s.current = who
	s.mu.Unlock()
}

func (s *sim) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	io.WriteString(s.log, line+"\n")
	if s.verbose {
		s.lines = append(s.lines, fmt.Sprintf("%s %5d %s", time.Now().Format("02 15:04:05.000"), s.steps, line))
	}
}

// fail notes that an invariant does not hold. Only the first counts.
func (s *sim) fail(invariant, format string, args ...any) {
	if s.broke == "" {
		s.broke, s.why = invariant, fmt.Sprintf(format, args...)
		s.say("VIOLATION %s: %s", invariant, s.why)
	}
}

func (s *sim) chance(p float64) bool { return p > 0 && s.rng.Float64() < p }

// simContent returns a piece of content: those of one family are alike.
func simContent(family, version int) []byte {
	r := rand.New(rand.NewPCG(uint64(family), 7))
	b := make([]byte, 300+r.IntN(900))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	copy(b, fmt.Sprintf("family%02d", family))
	v := rand.New(rand.NewPCG(uint64(family), uint64(version)+100))
	for range 4 * version {
		b[8+v.IntN(len(b)-8)] = byte(v.Uint32())
	}
	return b
}

const simFamilies, simVersions = 5, 5

func newSim(t *testing.T, seed uint64, cfg simConfig) *sim {
	s := &sim{t: t, seed: seed, cfg: cfg, rng: rand.New(rand.NewPCG(seed, 2)), skew: cfg.skew, snaps: map[string]*simSnap{}, forged: map[string]bool{}, oracles: map[*simStore]*repo.Repo{}, fresh: map[*simStore]int{},
		roles: map[crypt.Role]crypt.RawKey{}, seen: map[*simStore]int{}, stats: map[string]int{}, log: sha256.New(), draws: map[string]uint64{}}
	s.main, s.replica = newSimStore(s, "main"), newSimStore(s, "replica")
	tm := cfg.times
	repo.SetTimes(t, repo.Times{Renew: tm.renew, Expire: tm.expire, Lag: tm.lag, Margin: tm.margin, Undo: tm.undo, Slack: tm.slack, Follow: tm.follow, Grace: min(10*time.Second, tm.lag)})
	layout := repo.Layout{Batch: 4 << 10, ContentFrame: 1200 + s.rng.IntN(3)*600, TreeFrame: 1024, Pack: 3500 + s.rng.IntN(3)*1500, SmallPack: 1, JoinPacks: 2 + s.rng.IntN(3), JoinSegments: 2 + s.rng.IntN(3)}
	if s.rng.IntN(2) == 0 {
		layout.Pack, layout.SmallPack = 16_000, 4_000 // as far from each other as in earnest
	}
	repo.SetLayout(t, layout)
	repo.Remember(t)
	s.turn("create")
	ctx := context.Background()
	direct := &simBackend{store: s.main}
	key, err := crypt.NewKey()
	if err == nil {
		o := &repo.Options{}
		if cfg.lock > 0 {
			o.Lock = repo.Lock{Mode: backend.Compliance, Period: cfg.lock}
		}
		_, _, err = repo.Create(ctx, direct, key, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.owner, s.roles[crypt.Owner] = key, key
	r, err := repo.Open(ctx, direct, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []crypt.Role{crypt.Writer, crypt.Maintainer} {
		k, err := crypt.NewKey()
		if err == nil {
			_, err = r.AddSlot(ctx, role, k, role.String())
		}
		if err != nil {
			t.Fatal(err)
		}
		s.roles[role] = k
	}
	if cfg.deltas {
		s.deltas = repo.Deltas(t, func(data []byte) bool { return sha256.Sum256(data)[0]&1 == 0 })
	}
	for i := range cfg.writers {
		s.actor(fmt.Sprintf("w%d", i), s.main, crypt.Writer).tree = map[string][]byte{}
	}
	for i := range cfg.maintainers {
		s.actor(fmt.Sprintf("m%d", i), s.main, cfg.maintainerRole)
	}
	if cfg.reader {
		s.actor("r0", s.main, crypt.Owner)
	}
	if cfg.replica {
		s.actor("copy", s.replica, crypt.Owner)
		s.actor("rr", s.replica, crypt.Owner)
	}
	if cfg.replicaWriter {
		s.actor("rw", s.replica, crypt.Writer).tree = map[string][]byte{}
	}
	if cfg.forger {
		s.actor("thief", s.main, crypt.Writer)
	}
	if cfg.follower {
		s.actor("follow", s.replica, cfg.maintainerRole)
	}
	return s
}

func (s *sim) actor(name string, home *simStore, role crypt.Role) *simActor {
	a := &simActor{n: len(s.actors), name: name, sim: s, home: home, key: s.roles[role]}
	if s.chance(s.cfg.cache) {
		a.cache = s.t.TempDir()
	}
	s.actors = append(s.actors, a)
	return a
}

// open opens the repository anew, as a process that begins, without the scheduler.
func (a *simActor) open() error {
	a.direct = true
	defer func() { a.direct = false }()
	r, err := repo.Open(context.Background(), &simBackend{store: a.home, actor: a, life: a.life}, a.key, &repo.Options{Cache: a.cache, Workers: 1})
	if err != nil {
		return err
	}
	repo.LeastMemory(r)
	a.repo = r
	return nil
}

// start lets an actor call the library.
func (s *sim) start(a *simActor, act *simAction) {
	s.begun++
	s.steps++
	a.actions++
	act.begun = s.steps
	s.turn(fmt.Sprintf("%s/%d", a.name, a.actions))
	if act.run == nil {
		return
	}
	if !act.keyless && (a.repo == nil || !s.chance(s.cfg.keepOpen)) {
		if err := a.open(); err != nil && a.home == s.replica {
			s.say("%s: nothing to open", a.name)
			return
		} else if err != nil {
			s.fail("open", "%s: %v", a.name, err)
			return
		}
	}
	act.ctx, act.cancel = context.WithCancel(context.Background())
	act.corrupted = s.rot != nil
	a.act = act
	s.say("%s begins %s", a.name, act.kind)
	s.stats[act.kind]++
	r := a.repo
	go func() {
		err := act.run(act.ctx, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		act.err, act.finished = err, true
	}()
}

// finish deals with the calls that have returned.
func (s *sim) finish() {
	s.idled = false
	for _, a := range s.actors {
		act := a.act
		if act == nil {
			continue
		}
		s.mu.Lock()
		finished := act.finished
		s.mu.Unlock()
		if !finished {
			continue
		}
		a.act, s.idled = nil, true
		act.cancel()
		if act.crashed {
			s.say("%s is gone", a.name)
			a.repo = nil
		} else {
			s.say("%s ends %s: %s", a.name, act.kind, simError(act.err))
		}
		if act.after != nil {
			act.after(act.err)
		}
		s.look()
	}
}

// simError says what kind of error this is.
func simError(err error) string {
	switch _, damage := errors.AsType[*repo.DamageError](err); {
	case err == nil:
		return "ok"
	case errors.Is(err, errSim):
		return "failed"
	case errors.Is(err, errCrash):
		return "crashed"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, repo.ErrVoid):
		return "void"
	case errors.Is(err, repo.ErrUncertain):
		return "uncertain"
	case errors.Is(err, repo.ErrTooLate):
		return "too late"
	case errors.Is(err, repo.ErrBusy):
		return "busy"
	case damage:
		return "damage: " + err.Error()
	}
	return err.Error()
}

// crash ends a process. What it had under way may come to its end, now or later.
func (s *sim) crash(a *simActor) {
	if a.act == nil {
		return
	}
	s.say("%s crashes", a.name)
	s.mu.Lock()
	a.life++
	ops := slices.Clone(s.pending)
	s.mu.Unlock()
	a.act.crashed = true
	a.asleep = time.Time{}
	a.act.cancel()
	slices.SortFunc(ops, (*simOp).compare)
	s.turn(a.name + " gone")
	for _, op := range ops {
		if op.actor != a {
			continue
		}
		s.take(op)
		n := 2
		if !s.drops {
			n = s.rng.IntN(3)
		}
		switch n {
		case 0:
			op.carryOut(false)
			s.say("%s %s %s %s of the dead", a.name, op.store.name, op.kind, op.name)
			s.watch(op)
		case 1:
			s.postpone(op)
		}
		op.err = errCrash
		close(op.done)
	}
}

func (s *sim) take(op *simOp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = slices.DeleteFunc(s.pending, func(o *simOp) bool { return o == op })
}

// postpone lets an operation take effect later, whatever became of who asked for it.
func (s *sim) postpone(op *simOp) {
	if op.kind == simPut || op.kind == simDelete {
		c := *op
		s.late = append(s.late, &c)
	}
}

func (s *sim) deliver(i int) {
	op := s.late[i]
	s.late = slices.Delete(s.late, i, i+1)
	op.carryOut(false)
	s.say("late %s %s %s: %v", op.store.name, op.kind, op.name, op.err)
	s.stats["late"]++
	for _, a := range s.actors {
		if a.act != nil {
			a.act.overtaken = true
		}
	}
	s.watch(op)
}

// lagOf returns how far a list lags behind.
func (s *sim) lagOf(op *simOp) time.Duration {
	a := op.actor
	if s.lags != nil {
		return s.lags(op)
	}
	if a.act == nil || a.act.exclusive || a.home != s.main || a.act.kind != "backup" && a.act.kind != "prune" || s.cfg.lagAll && !s.chance(0.4) {
		return 0
	}
	lag := s.cfg.times.lag
	switch {
	case s.cfg.lagAll:
		return time.Duration(s.rng.Int64N(int64((lag - 2*time.Second) / 2)))
	case s.cfg.lagSessions && a.name[0] == 'w' && strings.HasPrefix("gc/", op.name):
		if s.rng.IntN(2) == 0 {
			return lag - time.Duration(s.rng.Int64N(int64(100*time.Millisecond))) // all but the whole of it
		}
		return lag - time.Duration(s.rng.Int64N(int64(lag)))
	}
	return 0
}

// release lets one operation go on.
func (s *sim) release(op *simOp) {
	s.steps++
	if s.chance(s.cfg.slow) {
		time.Sleep(time.Duration(s.rng.Int64N(int64(2 * time.Second))))
		synctest.Wait()
	}
	a, act := op.actor, op.act
	s.mu.Lock()
	dead := a.life != op.life
	s.mu.Unlock()
	outcome := ""
	switch {
	case dead:
		op.err, outcome = errCrash, "dead"
	case op.ctx.Err() != nil:
		op.err, outcome = op.ctx.Err(), "given up"
		if s.rng.IntN(2) == 0 {
			s.postpone(op)
		}
	case op.began != nil: // the end of a list
		now := op.store.list(op.name, 0)
		var names []string
		for name := range op.began {
			names = append(names, name)
		}
		for name := range now {
			if _, ok := op.began[name]; !ok {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			before, was := op.began[name]
			after, is := now[name]
			switch {
			case was && is:
				op.listed = append(op.listed, after)
			case s.listed != nil && !s.listed(op, name), s.listed == nil && s.rng.IntN(2) == 0:
			case was:
				op.listed = append(op.listed, before)
			default:
				op.listed = append(op.listed, after)
			}
		}
		outcome = fmt.Sprintf("%d listed", len(op.listed))
	case s.chance(s.cfg.fail), s.fails != nil && s.fails(op):
		op.err, outcome, act.failed = errSim, "fails", true
		if s.chance(0.3) {
			s.postpone(op)
			outcome = "fails, late"
		}
	default:
		op.carryOut(s.cfg.roundUp && s.rng.IntN(2) == 0)
		s.watch(op)
		outcome = "ok"
		if op.err != nil {
			outcome = "no"
			if errors.Is(op.err, fs.ErrExist) {
				outcome = "exists"
			}
		}
		if op.kind == simList {
			if s.chance(s.cfg.split) || s.splits != nil && s.splits(op) {
				s.say("%s %s list %s begins", a.name, op.store.name, op.name)
				return // it stays
			}
			for _, info := range op.began {
				op.listed = append(op.listed, info)
			}
			slices.SortFunc(op.listed, func(a, b backend.Info) int { return strings.Compare(a.Name, b.Name) })
			outcome = fmt.Sprintf("%d listed", len(op.listed))
		}
		if op.kind == simPut || op.kind == simDelete {
			if s.chance(s.cfg.late) {
				s.postpone(op)
				outcome += ", again later"
			}
			if s.chance(s.cfg.lost) {
				if op.retried < 3 && s.rng.IntN(2) == 0 {
					op.retried++
					s.say("%s %s %s %s: %s, no reply, tried again", a.name, op.store.name, op.kind, op.name, outcome)
					return // it stays
				}
				op.err, act.failed = errSim, true
				outcome += ", no reply"
			}
		}
		if op.kind == simGet && op.err == nil && op.off == 0 && op.n < 0 && len(op.data) > 0 && (s.corruptible(op) && s.chance(s.cfg.corrupt) || s.flips != nil && s.flips(op)) {
			op.data = bytes.Clone(op.data)
			op.data[s.rng.IntN(len(op.data))] ^= 1 << s.rng.IntN(8)
			act.corrupted = true
			outcome = "corrupted"
		}
	}
	if strings.HasPrefix(op.name, "snapshots/") && (op.kind == simGet || op.kind == simStat) {
		act.readBack = s.steps
	}
	act.looked = act.looked || op.kind == simList && op.name == "index/"
	s.say("%s %s %s %s %d: %s", a.name, op.store.name, op.kind, op.name, op.off, outcome)
	s.take(op)
	s.turn(fmt.Sprintf("%s/%d", a.name, a.actions))
	close(op.done)
}

func (s *sim) corruptible(op *simOp) bool {
	return op.actor.name[0] == 'm' && (strings.HasPrefix(op.name, "snapshots/") || strings.HasPrefix(op.name, "index/"))
}

// watch sees what took effect.
func (s *sim) watch(op *simOp) {
	a, act := op.actor, op.act
	if op.err != nil {
		return
	}
	switch {
	case op.kind == simPut && strings.HasPrefix(op.name, "sessions/") && !strings.Contains(op.name, "."):
		id := strings.TrimPrefix(op.name, "sessions/")
		if !slices.Contains(act.sessions, id) {
			act.sessions = append(act.sessions, id)
			if s.snaps[id] == nil && act.kind == "backup" {
				sn := &simSnap{id: id, store: a.home, by: a, tree: act.tree}
				for _, c := range act.tree {
					sn.excused = sn.excused || s.forged[string(c)]
				}
				s.snaps[id] = sn
			}
		}
	case op.kind == simPut && strings.HasPrefix(op.name, "forgotten/") && act.kind == "prune":
		id, _, _ := strings.Cut(strings.TrimPrefix(op.name, "forgotten/"), ".")
		if w := s.forgottenAt(s.main, id); !w.final || w.ended.Sub(w.since) <= s.cfg.times.undo+s.cfg.times.slack-2*time.Second {
			s.fail("the undo window", "%s lets go what was forgotten at %v", op.name, w.since)
		}
	case op.kind == simDelete && act.kind == "follow" && op.store == s.replica:
		s.watchFollower(op)
	case op.kind == simDelete && strings.HasPrefix(op.name, "packs/"):
		act.packs++
	case op.kind == simPut && strings.HasPrefix(op.name, "gc/") && !strings.Contains(op.name[3:], ".") && op.store == s.main:
		s.watchCandidates(op)
	}
}

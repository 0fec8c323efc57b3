package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/varvebackup/varve/backend"
)

// A Thief is what one who has these credentials can do to the snapshots that are
// there.
type Thief string

const (
	Reads    Thief = "reads"    // nothing
	Adds     Thief = "adds"     // put new objects beside them
	Undone   Thief = "undone"   // replace or hide what they need, and versions undo it
	Destroys Thief = "destroys" // what they need is lost
)

// A Threat is what may befall a repository.
type Threat string

const (
	Crash   Threat = "crash"   // the server crashes in the middle of a backup
	Rot     Threat = "rot"     // bits change, objects get lost
	Mistake Threat = "mistake" // the owner deletes or overwrites something
	Stolen  Threat = "thief"   // these credentials are stolen
	Account Threat = "account" // whoever owns the store turns against it, or is impersonated
)

// Survives says whether the snapshots that are there outlast a threat.
type Survives string

const (
	Wholly   Survives = "yes"    // what would harm them does not happen
	Restored Survives = "undone" // it happens, and can be undone
	Partly   Survives = "partly" // the sentences say what is left to fear
	Not      Survives = "no"
)

// A Verdict is what a report means for one threat.
type Verdict struct {
	Threat   Threat
	Survives Survives
	Text     string   // whole sentences
	Remedies []string // each closes what is open, or a part of it; whole sentences
}

// Ways to close holes.
const (
	useWriter     = "Give servers that back up credentials with the policy writer (varve doctor --policy writer), and keep these away from them."
	useReplica    = "Keep a replica with another provider, which pulls it with the policy second-provider (varve doctor --policy second-provider; varve replicate)."
	useCopy       = "Keep a replica where these credentials don't reach, which is pulled from there (varve replicate)."
	useLock       = "Lock what is stored: varve lock set governance:30d, and varve lock extend every week."
	useLockInit   = "Make the repository with a lock: varve init --lock governance:30d, and varve lock extend every week."
	useCompliance = "These credentials can end locks of governance. Lock for compliance (varve lock set compliance:30d, varve lock extend); or take s3:BypassGovernanceRetention from them, which is not enough at MinIO, where everybody can end such locks."
	useLockBucket = "Move to a bucket with object lock, which also keeps versions (a bucket gets it when it is created), and lock what is stored."
	useExtend     = "Run varve lock extend, and do so every week: some of what is needed is not locked."
)

// held reports whether a lock kept an object against all that was tried.
func (l Lock) held() bool {
	kept := func(o Outcome) bool { return o == Locked || o == Refused }
	return l.Put == Done && kept(l.Delete) && kept(l.Shorten) && kept(l.Remove)
}

// level says what a thief can do in a folder if the repository locks in a mode;
// "": it does not.
func (r *Report) level(f *Folder, mode backend.Mode) Thief {
	replaces := f.Overwrite == Done || f.Hide == Done || f.Put == Done && r.PutIfAbsent == No
	erases := f.Delete == Done || f.DeleteVersion == Done
	holds := false
	switch mode {
	case backend.Governance:
		holds = f.Governance.held()
	case backend.Compliance:
		holds = f.Compliance.held()
	}
	switch {
	case !replaces && !erases && f.Put == Done:
		return Adds
	case !replaces && !erases:
		return Reads
	case r.Versions == Yes && (!erases || holds):
		return Undone
	}
	return Destroys
}

// worst returns the most that a thief can do in the folders of names.
func (r *Report) worst(names []string, mode backend.Mode) Thief {
	order := []Thief{Reads, Adds, Undone, Destroys}
	most := 0
	for i := range r.Folders {
		for _, n := range names {
			if n != r.Folders[i].Name {
				continue
			}
			for k, t := range order {
				if t == r.level(&r.Folders[i], mode) {
					most = max(most, k)
				}
			}
		}
	}
	return order[most]
}

// can returns what is possible in some of the folders of names.
func (r *Report) can(names []string, what func(*Folder) Outcome) bool {
	for i := range r.Folders {
		for _, n := range names {
			if n == r.Folders[i].Name && what(&r.Folders[i]) == Done {
				return true
			}
		}
	}
	return false
}

func overwrite(f *Folder) Outcome { return f.Overwrite }
func hide(f *Folder) Outcome      { return f.Hide }
func put(f *Folder) Outcome       { return f.Put }
func locks(f *Folder) Outcome     { return f.Governance.Put }
func erase(f *Folder) Outcome {
	if f.DeleteVersion == Done {
		return Done
	}
	return f.Delete
}

// judge fills in what the tries mean.
func (r *run) judge(o *Options) {
	p := r.rep
	for i := range p.Folders {
		for _, l := range []Lock{p.Folders[i].Governance, p.Folders[i].Compliance} {
			switch {
			case l.Put == Done && p.Locks != No:
				p.Locks = Yes
			case l.Put == Unsupported:
				p.Locks = No
			}
		}
	}
	mode := backend.Mode("")
	if p.Used != nil && p.Used.InUse {
		mode = p.Used.Mode
	}
	p.Thief = p.worst(vital, mode)
	p.Verdicts = []Verdict{p.crash(), p.rot(o), p.mistake(o, mode), p.stolen(o, mode), p.account(o, mode)}
	p.warn()
}

func (p *Report) crash() Verdict {
	v := Verdict{Threat: Crash, Survives: Wholly, Text: "If the server crashes in the middle of a backup, earlier snapshots are whole, and the next backup goes on with what was stored."}
	if p.ReadAfterWrite == No {
		v.Survives = Not
		v.Text = "This store does not show at once what was put, so what a backup relies on may not be there."
		v.Remedies = []string{"Use another store."}
	}
	return v
}

func (p *Report) rot(o *Options) Verdict {
	v := Verdict{Threat: Rot, Survives: Not, Text: "If bits rot or objects get lost, varve check --read-data finds out which snapshots that hurts, and nothing here repairs them."}
	if o.Replica {
		v.Survives, v.Text = Restored, "If bits rot or objects get lost, varve check --read-data finds out, reading falls back to the replica, and varve heal repairs the rest from it."
		return v
	}
	v.Remedies = []string{"Keep a replica (varve replicate): reading falls back to it, and varve heal repairs from it."}
	return v
}

// how says what a name's deletion or overwriting comes to.
func (p *Report) how() string {
	var does []string
	for _, d := range []struct {
		what func(*Folder) Outcome
		word string
	}{{overwrite, "overwrite"}, {hide, "hide"}, {erase, "delete"}} {
		if p.can(vital, d.what) {
			does = append(does, d.word)
		}
	}
	if len(does) == 0 && p.PutIfAbsent == No {
		return "overwrite"
	}
	if n := len(does); n > 1 {
		return strings.Join(does[:n-1], ", ") + " and " + does[n-1]
	}
	return strings.Join(does, "")
}

func (p *Report) mistake(o *Options, mode backend.Mode) Verdict {
	v := Verdict{Threat: Mistake}
	switch careless := p.can(vital, overwrite) || p.can(vital, hide) || p.can(vital, erase) || p.PutIfAbsent == No; {
	case !careless:
		v.Survives, v.Text = Wholly, "Nobody can delete or overwrite snapshots by mistake with these credentials: the store refuses it."
	case p.Thief == Undone:
		v.Survives, v.Text = Restored, "What is deleted or overwritten by mistake with these credentials can be had back: older versions stay."
	case p.Versions == Yes && !o.Replica:
		v.Survives = Partly
		v.Text = "What is deleted or overwritten by its name by mistake can be had back, for the bucket keeps versions; what is deleted with its versions can't, and varve's own commands do that."
		v.Remedies = p.locking(mode)
	case o.Replica:
		v.Survives, v.Text = Restored, "What is deleted or overwritten by mistake is lost here; varve heal brings it back from the replica."
	default:
		v.Survives, v.Text = Not, "What is deleted or overwritten by mistake with these credentials is lost."
		v.Remedies = append(p.locking(mode), p.copying()...)
	}
	return v
}

// locking says how locks would help, if they would.
func (p *Report) locking(mode backend.Mode) []string {
	switch {
	case !p.Bucket && p.Locks != Yes:
		return nil
	case p.Locks == No || p.Versions == No:
		return []string{useLockBucket}
	case mode != "" && p.worst(vital, mode) != Destroys:
		return nil
	case p.worst(vital, backend.Governance) != Destroys && !p.Repository:
		return []string{useLockInit}
	case p.worst(vital, backend.Governance) != Destroys && p.Used != nil && p.Used.Locked > 0:
		return []string{useExtend}
	case p.worst(vital, backend.Governance) != Destroys:
		return []string{useLock}
	case p.worst(vital, backend.Compliance) != Destroys:
		return []string{useCompliance}
	}
	return nil
}

// copying says how another copy would help.
func (p *Report) copying() []string {
	if p.Bucket {
		return []string{useReplica}
	}
	return []string{useCopy}
}

func (p *Report) stolen(o *Options, mode backend.Mode) Verdict {
	v := Verdict{Threat: Stolen}
	const sealed = " What is stored is sealed: to read it takes a key of the repository as well."
	switch p.Thief {
	case Reads:
		v.Survives, v.Text = Wholly, "A thief of these credentials can only read: the store refuses to put, overwrite, hide and delete what snapshots need."
	case Adds:
		v.Survives, v.Text = Wholly, "A thief of these credentials can only add objects, which costs storage: overwriting is refused by the store, and so are hiding and deleting."
	case Undone:
		v.Survives = Restored
		v.Text = fmt.Sprintf("A thief of these credentials can %s objects, and that is undone: the bucket keeps versions,", p.how())
		if p.can(vital, erase) {
			v.Text += fmt.Sprintf(" and what snapshots need is locked (%s), which the thief can't end before its time.", mode)
		} else {
			v.Text += " which these credentials can't delete"
			if mode != "" {
				v.Text += fmt.Sprintf(", and which are locked (%s)", mode)
			}
			v.Text += "."
		}
		v.Text += " Older versions are read by themselves where the newest is not what was put; what was hidden comes back as of the time before (as-of in the bucket's URL)."
		if mode != "" {
			v.Text += fmt.Sprintf(" Some of it can be deleted from %s on, unless locks are extended before that.", p.Used.Until.UTC().Format(time.RFC3339))
		}
	case Destroys:
		v.Survives = Not
		v.Text = fmt.Sprintf("A thief of these credentials can destroy the snapshots: %s objects for good.", p.how())
		if p.Versions == Yes && p.can(vital, erase) {
			v.Text = fmt.Sprintf("A thief of these credentials can destroy the snapshots: %s objects, their versions included.", p.how())
		}
		if p.Versions == Unknown {
			v.Text += " Whether the bucket keeps versions could not be found out (s3:ListBucketVersions)."
		}
		if p.Used == nil && p.Repository {
			v.Text += " Whether what is stored is locked could not be found out (s3:GetObjectRetention)."
		}
		if mode != "" && !p.can(vital, locks) {
			v.Text += " (What is stored is locked. Whether that holds them off could not be tried, for they may not lock anything.)"
		}
		if o.Replica {
			v.Survives = Restored
			v.Text += " The replica stays, if they don't reach it: varve heal brings back what was lost."
		}
		if p.Bucket {
			v.Remedies = append(v.Remedies, useWriter)
		}
		v.Remedies = append(v.Remedies, p.locking(mode)...)
		if !o.Replica {
			v.Remedies = append(v.Remedies, p.copying()...)
		}
	}
	v.Text += sealed
	if p.Thief != Destroys {
		if p.worst(records, "") == Destroys && (p.can(records, overwrite) || p.can(records, hide) || p.can(records, erase)) {
			v.Text += " The records of running backups and of maintenance (sessions/, gc/, forgotten/) are never locked, and can be destroyed: that may spoil backups made from then on, and brings forgotten snapshots back."
			if p.Bucket {
				v.Remedies = append(v.Remedies, useWriter)
			}
		}
	}
	return v
}

func (p *Report) account(o *Options, mode backend.Mode) Verdict {
	v := Verdict{Threat: Account, Survives: Not, Text: "Whoever owns the store (the provider's account, or root on its machine), or steals that, can destroy the snapshots."}
	if mode == backend.Compliance {
		v.Survives, v.Text = Partly, "Whoever owns the provider's account, or steals it, can't delete what is locked (compliance) before its time; but can close the account with all that is in it."
	}
	if o.Replica {
		v.Survives = Partly
		v.Text += " The replica stays, if it is with another provider, and nothing here can delete in it."
		return v
	}
	v.Remedies = p.copying()
	return v
}

// warn says what else there is to know.
func (p *Report) warn() {
	warn := func(format string, args ...any) { p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...)) }
	switch writes := 0; {
	case !p.can(vital, put) && !p.can(records, put):
		warn("These credentials can't put anything, so they can't back up.")
	default:
		for _, n := range []string{"index/", "packs/", "sessions/", "snapshots/"} {
			if p.can([]string{n}, put) {
				writes++
			}
		}
		if writes < 4 {
			warn("These credentials can't put objects everywhere that a backup does (packs/, index/, snapshots/, sessions/).")
		}
	}
	if p.PutIfAbsent == No {
		warn("This store replaces objects also when it is told to put only what is absent: snapshots can only be removed while no backup is running (prune --exclusive).")
	}
	if p.ReadAfterWrite == No {
		warn("What was just put could not be read or listed: this is no store for a repository.")
	}
	if p.TLS == No {
		warn("The way to the store is plain HTTP: all on the way can change what is put, and repeat what they saw. Use TLS.")
	}
	if p.Skew > MaxSkew || p.Skew < -MaxSkew {
		word, d := "ahead of", p.Skew.Round(time.Second)
		if d < 0 {
			word, d = "behind", -d
		}
		warn("The store's clock is %v %s this machine's. Set them right (NTP): times of snapshots, and locks, go by the one, and maintenance by the other.", d, word)
	}
	if u := p.Used; u != nil && u.Locked > 0 && u.Locked < u.Objects {
		warn("%d of %d objects of the repository that were looked at are not locked, %s is one: varve check tells whether snapshots need them, varve lock extend locks those that they need.", u.Objects-u.Locked, u.Objects, u.First)
	}
	p.Untried = []string{
		"What these credentials may do to the store as a whole was not tried: its settings (versions, locks, lifecycle rules, policies), its deletion, its other credentials.",
		"A lifecycle rule that expires objects or versions does what a thief would do, but for those that are locked.",
	}
	if !p.Bucket {
		p.Untried = []string{"Only what varve itself can do to the store was tried: whoever gets at it in another way (a shell on the machine) may do more."}
	}
}

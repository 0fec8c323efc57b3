package repo

import (
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
)

// openKey is how sealed objects and section keys are opened. The simulation, whose actors open the same few over and over, remembers what came of it.
var openKey = struct {
	object  func(k *crypt.Keys, name string, object []byte, want ...crypt.Kind) (crypt.Kind, []byte, error)
	section func(pack.Opener, pack.Section) (*pack.SectionKey, error)
}{(*crypt.Keys).Open, pack.OpenSectionKey}

// broken switches rules of the protocol off, each by itself. Only the simulation sets it, to prove that it would notice; every field is false otherwise.
var broken struct {
	indexFirst        bool // gc/ is read before index/
	believeCandidates bool // candidates count as absent for sessions
	noLag             bool // sessions that began within the lag are waited for
	tiesPass          bool // a tick of the store's clock counts as before
	noWait            bool // open sessions are waited for
	noVoidEnded       bool // ended sessions without a manifest get a void
	noVoidExpired     bool // expired ones do
	voidsRemoved      bool // voids stay
	firstMark         bool // the second mark is from scratch
	ownVerdict        bool // the verdict that stands is obeyed
	commitFirst       bool // segments come before the commit
	markerLate        bool // the marker comes first
	removeUnread      bool // only segments that were read are removed
	removeFirst       bool // after what replaces them was put
	dropUnneeded      bool // rewritten segments carry whatever no verdict names
	forgetVerdicts    bool // what was freed is dead for ever
	condemnFirst      bool // what was copied is condemned when the copies are named
	noMargin          bool // young packs are no candidates
	noBases           bool // nor what they have bases in
	youngBirths       bool // copies keep the birth
	forgetNow         bool // forgotten snapshots are roots until the undo window is over
	finalBlind        bool // it takes a word that stands, behind all others, to let one go
	skipUnreadable    bool // a manifest that cannot be opened blocks
	skipMissing       bool // a blob that is not to be found blocks
	existsIsMine      bool // what is there already is compared
	commitBlind       bool // a doubtful commit is read back
	replicaPutsLate   bool // packs are put before what names them
	replicaListsLate  bool // snapshots are listed before packs
	replicaNoRestart  bool // a verdict in between starts over
	followSoon        bool // what was freed at the source stays at a replica for a month
	followUnsigned    bool // what vanished there without a verdict stays for ever
	followUnspared    bool // and what a snapshot at the replica needs
	followNoWait      bool // sessions at the replica that may have missed the verdict are waited for
	followNoLag       bool // those that began within the lag after it too
	gcTrustsList      bool // a verdict that a list left out is asked for by name
}

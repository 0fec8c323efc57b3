package source

// Kept returns how many folders t holds open, at most MaxKept.
func Kept(t *Tree) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.kept)
}

const MaxKept = maxKept

var SightOf = sightOf

// SortNames returns what a listing of names, in pieces, makes of them, with so much memory; 0: as much as it takes. Their kinds count down from the
// first piece on, that of files.
func SortNames(limit int, pieces ...[]string) (sorted []string, kinds []byte, runs int, err error) {
	l := &names{limit: limit}
	defer l.close()
	for i, piece := range pieces {
		var b []byte
		for _, name := range piece {
			b = packName(b, byte(8-i%8), []byte(name))
		}
		if err := l.add(b, len(piece)); err != nil {
			return nil, nil, 0, err
		}
	}
	if err := l.finish(); err != nil {
		return nil, nil, 0, err
	}
	err = l.each(func(kind byte, name string) bool {
		sorted, kinds = append(sorted, name), append(kinds, kind)
		return true
	})
	return sorted, kinds, len(l.runs), err
}

// Conninfo returns what a command line gets of a connection string, for the database db, and the password in it.
func Conninfo(conn, db string) (argument, password string, err error) {
	c, err := parseConninfo(conn)
	if err != nil {
		return "", "", err
	}
	return c.argument(db), c["password"], nil
}

// Held returns the bytes of listings that are in use.
func Held(t *Tree) int64 { return t.held.Load() }

// SetRun lets listings of t take so many bytes of memory.
func SetRun(t *Tree, n int) { t.run = n }

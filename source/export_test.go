package source

// Kept returns how many folders t holds open, at most MaxKept.
func Kept(t *Tree) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.kept)
}

const MaxKept = maxKept

var SightOf = sightOf

// SortNames returns what a listing of names, in two pieces, makes of them. Their kinds are those of files in the first.
func SortNames(first, second []string) (sorted []string, kinds []byte) {
	l := new(names)
	for i, piece := range [][]string{first, second} {
		var b []byte
		for _, name := range piece {
			b = packName(b, byte(8-4*i), []byte(name))
		}
		l.add(b, len(piece))
	}
	l.sort()
	for i := range l.count {
		kind, name := l.at(i)
		sorted, kinds = append(sorted, name), append(kinds, kind)
	}
	return sorted, kinds
}

// Conninfo returns what a command line gets of a connection string, for the database db, and the password in it.
func Conninfo(conn, db string) (argument, password string, err error) {
	c, err := parseConninfo(conn)
	if err != nil {
		return "", "", err
	}
	return c.argument(db), c["password"], nil
}

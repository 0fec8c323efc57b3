package repo

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Decoders for fuzzing: each decodes what Decode names and returns the encoding of what it understood.
var Recode = map[string]func([]byte) ([]byte, error){
	"manifest": func(b []byte) ([]byte, error) {
		var m manifest
		if err := tree.Unmarshal(b, &m); err != nil {
			return nil, err
		}
		s, err := m.snapshot(m.Session)
		if err != nil {
			return nil, errors.Join(tree.ErrDamaged, err)
		}
		return tree.Marshal(s.manifest())
	},
	"config": func(b []byte) ([]byte, error) {
		var c config
		if err := tree.Unmarshal(b, &c); err != nil {
			return nil, err
		}
		return tree.Marshal(&c)
	},
	"candidates": func(b []byte) ([]byte, error) {
		var l packList
		if err := l.parse(b, 1); err != nil {
			return nil, errors.Join(tree.ErrDamaged, err)
		}
		return tree.Marshal(&l)
	},
	"done": func(b []byte) ([]byte, error) {
		var d doneRecord
		if err := tree.Unmarshal(b, &d); err != nil {
			return nil, err
		}
		return tree.Marshal(&d)
	},
	"forgotten": func(b []byte) ([]byte, error) {
		var r sessionRecord
		if err := tree.Unmarshal(b, &r); err != nil {
			return nil, err
		}
		return tree.Marshal(&r)
	},
	"hints": recodeHints,
}

// Seeds are encodings that the decoders take.
func Seeds() map[string][][]byte {
	id := bytes.Repeat([]byte{7}, 32)
	session := "20261120T031500123Z-0123456789abcdef-0123456789abcdef"
	at := tree.Time{Sec: 1_700_000_000, Ns: 5}
	encode := func(vs ...any) (out [][]byte) {
		for _, v := range vs {
			b, err := tree.Marshal(v)
			if err != nil {
				panic(err)
			}
			out = append(out, b)
		}
		return out
	}
	return map[string][][]byte{
		"manifest": encode(&manifest{Series: "shop", Session: session, Time: at, End: at, Root: id, Tags: []tree.Pair{}},
			&manifest{Series: "shop/web", Session: session, Time: at, End: at, Host: "h", Tags: []tree.Pair{{Key: "a", Value: "b"}, {Key: "c"}}, Root: id, Parent: session,
				Stats: [8]uint64{1, 2, 3, 4, 5, 6, 7, 8}, Version: "0.1.0", Unread: id, Missing: 3, Hints: &tree.Piece{Length: 5, ID: id}}),
		"config":     encode(&config{Repository: id[:16], Created: at, Streams: params{"gear", 1, 2, 3}, Files: params{"rabin", 4, 5, 6}}, &config{NoPutIfAbsent: true}),
		"candidates": encode(&packList{N: 1, Packs: [][]byte{}}, &packList{N: 1, Packs: [][]byte{id, bytes.Repeat([]byte{8}, 32)}}),
		"done":       encode(&doneRecord{N: 1}, &doneRecord{N: 1 << 30}),
		"forgotten":  encode(&sessionRecord{Session: session}, &sessionRecord{Session: session, Time: &at}, &sessionRecord{Session: session, Time: &at, Undo: true}, &sessionRecord{Session: session, Time: &at, Final: true}),
		"hints":      append(hintSeed(), nil),
	}
}

// ReadTokens reads data as the token file of a series that a backup with this cache folder would find, and returns the paths in it.
func ReadTokens(keys *crypt.Keys, dir string, data []byte) ([]string, error) {
	c, err := openCache(dir, keys)
	if err != nil {
		return nil, err
	}
	r := &Repo{keys: keys, cache: c}
	h := tokenHash(r, "shop")
	h.Write(data)
	if err := os.WriteFile(filepath.Join(c.dir, "tokens", tokenFile(r, "shop")), h.Sum(bytes.Clone(data)), 0o600); err != nil {
		return nil, err
	}
	t := openTokens(r, "shop", func(string) int { return 0 })
	if t == nil {
		return nil, nil
	}
	defer t.close()
	var paths []string
	for !t.done {
		paths = append(paths, string(t.path))
		if err := t.each(10, func([]tree.Piece) error { return nil }); err != nil {
			return paths, err
		}
		t.next()
	}
	return paths, nil
}

// TokenSeed is the content of a token file: of a with more pieces than a part has, of a file that was taken back, and of b/c.
func TokenSeed() []byte {
	id := bytes.Repeat([]byte{7}, 32)
	w := &tokenWriter{sum: blake3.New()}
	for i := range tokenPieces + 1 {
		w.piece(uint64(i)+1, id)
	}
	w.piece(9, nil)
	w.end("a", &tree.Entry{Token: id[:16]})
	for range tokenPieces + 1 {
		w.piece(1, nil)
	}
	w.drop()
	w.end("b/c", &tree.Entry{Token: id[:16], Xattrs: []tree.Xattr{{Name: []byte("user.x"), Value: []byte("y")}}, Type: "text/plain", Meta: []tree.Pair{{Key: "k", Value: "v"}}})
	return w.out
}

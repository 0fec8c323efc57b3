package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
)

const (
	configPrefix    = "config/"
	keysPrefix      = "keys/"
	packsPrefix     = "packs/"
	indexPrefix     = "index/"
	snapshotsPrefix = "snapshots/"
	sessionsPrefix  = "sessions/"
	gcPrefix        = "gc/"
	forgottenPrefix = "forgotten/"

	endSuffix = ".end"

	probePrefix = sessionsPrefix + probe // what Create tries the store with
	probe       = "probe-"
	freeSuffix  = ".free"
	doneSuffix  = ".done"
)

// errNoSuchName says of an object that it is none of a repository's.
var errNoSuchName = errors.New("no object of this format has that name")

func configName(n int) string          { return configPrefix + strconv.Itoa(n) }
func gcName(n int) string              { return gcPrefix + strconv.Itoa(n) }
func indexName(id string) string       { return indexPrefix + id }
func markerName(session string) string { return sessionsPrefix + session }

func packName(id pack.ID) string {
	h := id.String()
	return packsPrefix + h[:2] + "/" + h
}

// isProbe tells whether somebody has only tried the store with this object: Create, or a doctor, who tries each folder. It is no part of a repository, whatever it holds, and
// stays where nothing can be deleted.
func isProbe(name string) bool {
	_, rest, _ := strings.Cut(name, "/")
	return strings.HasPrefix(rest, probe)
}

// number parses the n of config/<n>, gc/<n> and sessions/<id>.<n>: decimal, from 1, without leading zeros.
func number(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n > 0 && strconv.Itoa(n) == s
}

// A session id is <time>-<random>-<series>: 20261120T031500123Z-0123456789abcdef-0123456789abcdef.
const (
	sessionTime    = "20060102T150405.000Z"
	sessionTimeLen = len("20060102T150405000Z")
	sessionLen     = 53
)

// newSession returns a fresh session id for a series.
func newSession(keys *crypt.Keys, series string, now time.Time) string {
	sid := keys.SeriesID(series)
	return sessionID(now, hex.EncodeToString(sid[:]))
}

// sessionID returns a fresh session id; series is 16 hex digits.
func sessionID(now time.Time, series string) string {
	t := strings.Replace(now.UTC().Format(sessionTime), ".", "", 1)
	return t + "-" + randomHex(8) + "-" + series
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// validSession tells whether s has the form of a session id.
func validSession(s string) bool {
	if len(s) != sessionLen || s[sessionTimeLen] != '-' || s[36] != '-' || !isHex(s[20:36]) || !isHex(s[37:]) {
		return false
	}
	_, ok := parseSessionTime(s)
	return ok
}

func parseSessionTime(s string) (time.Time, bool) {
	t, err := time.Parse(sessionTime, s[:15]+"."+s[15:sessionTimeLen])
	return t, err == nil
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// snapshotName is the place of a session's commit. session must be valid.
func snapshotName(session string) string {
	return snapshotsPrefix + session[37:] + "/" + session
}

// listNames returns the names of all objects that begin with prefix, sorted.
func listNames(ctx context.Context, b backend.Backend, prefix string) ([]string, error) {
	var names []string
	for info, err := range b.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names, nil
}

func repositoryID(keys *crypt.Keys) string {
	id := keys.Repository()
	return fmt.Sprintf("%x", id[:])
}

// hashHex is the name of a segment or pack with these bytes.
func hashHex(object []byte) string {
	h := blake3.Sum256(object)
	return hex.EncodeToString(h[:])
}

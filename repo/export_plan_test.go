package repo

import "slices"

// ApplyKeep plans for made-up snapshots of one series, in any order.
func ApplyKeep(k Keep, series []Planned) []Planned {
	series = slices.Clone(series)
	for i := range series {
		series[i].Why = nil
	}
	slices.SortFunc(series, compareTimes)
	k.apply(series)
	return series
}

// MakeIncomplete marks a made-up snapshot.
func MakeIncomplete(s *Snapshot) { s.missing = 1 }

package chunk_test

import (
	"math"
	"strings"
	"testing"

	"github.com/varvebackup/varve/chunk"
)

func TestValidate(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	tests := []struct {
		name string
		p    chunk.Params
		err  string // a part of it; empty for valid
	}{
		{"fine", chunk.Fine, ""},
		{"coarse", chunk.Coarse, ""},
		{"least", chunk.Params{chunk.Gear, 64, 2112, 4224}, ""},
		{"greatest", chunk.Params{chunk.Gear, 64, 8 * mib, 16 * mib}, ""},
		{"greatest min", chunk.Params{chunk.Gear, 8*mib - 2048, 8 * mib, 16 * mib}, ""},
		{"rabin", chunk.Params{chunk.Rabin, 4 * kib, 20 * kib, 128 * kib}, ""},
		{"rabin least", chunk.Params{chunk.Rabin, 64, 2112, 4224}, ""},

		{"zero", chunk.Params{}, "unknown algorithm"},
		{"no algorithm", chunk.Params{"", 4 * kib, 16 * kib, 128 * kib}, "unknown algorithm"},
		{"long algorithm", chunk.Params{chunk.Algorithm(strings.Repeat("gear", mib)), 4 * kib, 16 * kib, 128 * kib}, "unknown algorithm"},
		{"case", chunk.Params{"Gear", 4 * kib, 16 * kib, 128 * kib}, "unknown algorithm"},
		{"min below window", chunk.Params{chunk.Gear, 63, 16 * kib, 128 * kib}, "min 63"},
		{"min zero", chunk.Params{chunk.Rabin, 0, 16 * kib, 128 * kib}, "min 0"},
		{"min negative", chunk.Params{chunk.Gear, math.MinInt, 16 * kib, 128 * kib}, "min -"},
		{"max above", chunk.Params{chunk.Gear, 4 * kib, 16 * kib, 16*mib + 1}, "max 16777217"},
		{"max huge", chunk.Params{chunk.Gear, 4 * kib, 16 * kib, math.MaxInt}, "max "},
		{"max negative", chunk.Params{chunk.Gear, 4 * kib, 16 * kib, math.MinInt}, "avg "},
		{"max near avg", chunk.Params{chunk.Gear, 4 * kib, 16 * kib, 32*kib - 1}, "half of max"},
		{"avg near min", chunk.Params{chunk.Gear, 4 * kib, 6*kib - 1, 128 * kib}, "above min"},
		{"avg is min", chunk.Params{chunk.Gear, 4 * kib, 4 * kib, 128 * kib}, "above min"},
		{"avg below min", chunk.Params{chunk.Gear, 64 * kib, 16 * kib, 128 * kib}, "above min"},
		{"avg negative", chunk.Params{chunk.Gear, 4 * kib, math.MinInt, 128 * kib}, "above min"},
		{"min huge", chunk.Params{chunk.Gear, math.MaxInt, 16 * kib, 128 * kib}, "above min"},
		{"all huge", chunk.Params{chunk.Gear, math.MaxInt, math.MaxInt, math.MaxInt}, "max "},
		{"rabin bits", chunk.Params{chunk.Rabin, 4 * kib, 16 * kib, 128 * kib}, "power of two"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.p.Validate()
			c, newErr := chunk.New(tt.p, &testKey)
			if tt.err == "" {
				if err != nil || newErr != nil || c == nil {
					t.Fatalf("Validate: %v, New: %v", err, newErr)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "chunk: ") || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Validate: %v, want chunk: ... %s", err, tt.err)
			}
			if len(err.Error()) > 120 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			if newErr == nil || c != nil {
				t.Errorf("New: %v, %v", c, newErr)
			}
		})
	}
}

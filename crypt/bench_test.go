package crypt_test

import (
	"fmt"
	"testing"

	"github.com/varvebackup/varve/crypt"
)

func BenchmarkNamer(b *testing.B) {
	n := try(crypt.NewKeys()).Namer()
	for _, size := range []int{16 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				n.Content(p)
			}
		})
	}
}

func BenchmarkSplit(b *testing.B) {
	s, name := try(crypt.NewKeys()).Splitter(), []byte("IMG_20261120_031500.jpg")
	b.ReportAllocs()
	for b.Loop() {
		s.Split(0, name)
	}
}

func BenchmarkNewSection(b *testing.B) {
	k := try(crypt.NewKeys())
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := k.NewSection(crypt.SectionContent); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenSection(b *testing.B) {
	k := try(crypt.NewKeys())
	aead, enc, _, err := k.NewSection(crypt.SectionContent)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.OpenSection(crypt.SectionContent, aead, enc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	k, p := try(crypt.NewKeys()), make([]byte, 1<<20)
	for _, kind := range []crypt.Kind{crypt.KindSegment, crypt.KindRewritten} {
		b.Run(kind.String(), func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Seal(kind, "", p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

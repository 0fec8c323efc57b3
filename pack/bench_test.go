package pack_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
)

const benchFrame = 512 << 10

var benchData = map[string][]byte{"text": text(benchFrame, 1), "noise": noise(benchFrame, 1)}

// times returns how long f takes, at best.
func times(f func()) time.Duration {
	best := time.Hour
	for range 30 {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	return best
}

// Encode against zstd and AES-GCM alone, one after the other, on the same bytes in the same run.
func BenchmarkEncode(b *testing.B) {
	key := try(pack.NewSectionKey(try(crypt.NewKeys()), crypt.SectionContent))
	gcm := try(cipher.NewGCM(try(aes.NewCipher(make([]byte, 32)))))
	for _, name := range []string{"text", "noise"} {
		b.Run(name, func(b *testing.B) {
			plain, e := benchData[name], pack.NewEncoder()
			z := try(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20),
				zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true)))
			small, sealed, nonce := z.EncodeAll(plain, nil), make([]byte, 0, 2*benchFrame), make([]byte, 12)
			dst := make([]byte, 0, benchFrame+pack.Overhead)
			zt := times(func() { small = z.EncodeAll(plain, small[:0]) })
			if len(small) > benchFrame {
				small = plain
			}
			at := times(func() { gcm.Seal(sealed[:0], nonce, small, nil) })
			et := times(func() { e.Encode(dst, key, plain) })
			b.SetBytes(benchFrame)
			b.ReportAllocs()
			for b.Loop() {
				e.Encode(dst, key, plain)
			}
			b.ReportMetric(float64(et)/float64(zt+at), "x-of-parts")
			b.ReportMetric(benchFrame/1e6/zt.Seconds(), "zstd-MB/s")
			b.ReportMetric(float64(len(small))/1e6/at.Seconds(), "gcm-MB/s")
		})
	}
}

func BenchmarkEncodeDelta(b *testing.B) {
	key, e := try(pack.NewSectionKey(try(crypt.NewKeys()), crypt.SectionContent)), pack.NewEncoder()
	for _, name := range []string{"text", "noise"} {
		b.Run(name, func(b *testing.B) {
			old, bases := benchData[name], make([]pack.ID, 1)
			plain := append([]byte("changed"), old[:benchFrame-1000]...)
			dst := make([]byte, 0, benchFrame+pack.Overhead)
			var stored int
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				f, _, ok, err := e.EncodeDelta(dst, key, plain, 1, bases, old)
				if !ok || err != nil {
					b.Fatal(ok, err)
				}
				stored = int(f.Stored)
			}
			b.ReportMetric(float64(stored), "stored-B")
		})
	}
}

// Decode against opening and decompressing alone.
func BenchmarkDecode(b *testing.B) {
	k := try(crypt.NewKeys())
	key := try(pack.NewSectionKey(k, crypt.SectionContent))
	gcm := try(cipher.NewGCM(try(aes.NewCipher(make([]byte, 32)))))
	for _, name := range []string{"text", "noise"} {
		b.Run(name, func(b *testing.B) {
			f, sealed := pack.NewEncoder().Encode(nil, key, benchData[name])
			dst, d := make([]byte, 0, benchFrame), pack.NewDecoder()
			defer d.Close()
			z := try(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1)))
			defer z.Close()
			nonce, small := make([]byte, 12), benchData[name]
			if f.Codec == pack.Zstd {
				ze := try(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false)))
				small = ze.EncodeAll(small, nil)
				ze.Close()
			}
			opened, ct := make([]byte, 0, len(small)), gcm.Seal(nil, nonce, small, nil)
			parts := times(func() {
				opened = try(gcm.Open(opened[:0], nonce, ct, nil))
				if f.Codec == pack.Zstd {
					try(z.DecodeAll(opened, dst))
				}
			})
			dt := times(func() { try(d.Decode(dst, key, &f, sealed, nil)) })
			b.SetBytes(benchFrame)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Decode(dst, key, &f, sealed, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(dt)/float64(parts), "x-of-parts")
		})
	}
}

func BenchmarkPack(b *testing.B) {
	k := try(crypt.NewKeys())
	key, plain := try(pack.NewSectionKey(k, crypt.SectionContent)), benchData["noise"]
	f, sealed := pack.NewEncoder().Encode(nil, key, plain)
	for off := 0; off < len(plain); off += 16 << 10 {
		f.Blobs = append(f.Blobs, pack.Blob{ID: idOf(plain[off : off+16<<10]), Length: 16 << 10})
	}
	const frames = 32
	make := func(buf []byte) []byte {
		w := pack.NewWriter(k, buf)
		for range frames {
			if err := w.Add(key.Section, f, sealed); err != nil {
				b.Fatal(err)
			}
		}
		_, object, _, err := w.Close()
		if err != nil {
			b.Fatal(err)
		}
		return object
	}
	object := make(nil)
	b.Run(fmt.Sprintf("write %d frames", frames), func(b *testing.B) {
		b.SetBytes(int64(len(object)))
		b.ReportAllocs()
		for b.Loop() {
			object = make(object)
		}
	})
	b.Run("read directory", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := pack.ReadDirectory(k, bytes.NewReader(object), int64(len(object))); err != nil {
				b.Fatal(err)
			}
		}
	})
}

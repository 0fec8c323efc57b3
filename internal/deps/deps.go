package deps

import (
	_ "github.com/cenkalti/backoff/v5"
	_ "github.com/dustin/go-humanize"
	_ "github.com/fxamacker/cbor/v2"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/restic/chunker"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/schollz/progressbar/v3"
	_ "github.com/spf13/cobra"
	_ "github.com/zeebo/blake3"
	_ "go.uber.org/goleak"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/crypto/chacha20poly1305"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
	_ "pgregory.net/rapid"
)

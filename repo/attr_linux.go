package repo

import (
	"syscall"
	"time"
)

func changeTime(st *syscall.Stat_t) time.Time { return unixTime(st.Ctim) }

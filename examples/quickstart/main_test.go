package main

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

func TestRun(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("TMP", tmp) // Windows
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	var read, stored [2]int64
	var last string
	if _, err := fmt.Sscanf(out.String(), "day 1: %d bytes read, %d bytes stored\nday 2: %d bytes read, %d bytes stored\nday 1 restored: %s",
		&read[0], &stored[0], &read[1], &stored[1], &last); err != nil || last != "identical" {
		t.Fatalf("it prints %q: %v", &out, err)
	}
	if read[0] < 10e6 || stored[0] > read[0] || stored[1]*5 > stored[0] {
		t.Errorf("it prints %q", &out)
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

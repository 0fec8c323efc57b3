package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/crypt"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"varve": main})
}

// TestScript runs testdata/script. Scripts have a repository's place and a raw key in their environment, and these commands:
//
//	json PATH REGEXP    the last standard output is one JSON document, and what PATH (a.0.b) names in it matches; "len" is a list's length
//	jsonenv NAME PATH   sets a variable to what PATH names
//	await FILE          waits until there is such a file
//	status N COMMAND... runs a command that ends with that status
//	write FILE TEXT     writes a file whose name or text holds \xHH or \n
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			key, err := crypt.NewKey()
			if err != nil {
				return err
			}
			e.Setenv("VARVE_REPO", filepath.Join(e.WorkDir, ".repo"))
			e.Setenv("VARVE_CACHE", filepath.Join(e.WorkDir, ".cache"))
			e.Setenv("VARVE_KEY", key.Text())
			e.Setenv("TZ", "UTC")
			hook, err := filepath.Abs("../../examples/deploy-hook/after-deploy.sh")
			if err != nil {
				return err
			}
			e.Setenv("HOOK", hook)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"json":    matchJSON,
			"jsonenv": func(ts *testscript.TestScript, _ bool, args []string) { ts.Setenv(args[0], lookJSON(ts, args[1])) },
			"await":   await,
			"status":  status,
			"write":   write,
		},
	})
}

func matchJSON(ts *testscript.TestScript, neg bool, args []string) {
	got := lookJSON(ts, args[0])
	if match := regexp.MustCompile(`^(?:` + args[1] + `)$`).MatchString(got); match == neg {
		ts.Fatalf("%s is %s", args[0], got)
	}
}

// lookJSON returns what path names in the last standard output.
func lookJSON(ts *testscript.TestScript, path string) string {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		ts.Fatalf("standard output is no JSON: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		ts.Fatalf("standard output is more than one JSON document")
	}
	for step := range strings.SplitSeq(path, ".") {
		list, isList := v.([]any)
		i, err := strconv.Atoi(step)
		switch {
		case isList && step == "len":
			v = len(list)
		case isList && err == nil && i < len(list):
			v = list[i]
		default:
			m, _ := v.(map[string]any)
			next, ok := m[step]
			if !ok {
				return "absent"
			}
			v = next
		}
	}
	return fmt.Sprint(v)
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	for range 600 {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("there is still no %s", args[0])
}

func status(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if e, ok := err.(interface{ ExitCode() int }); ok {
		code = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("status %d", code)
	}
}

func write(ts *testscript.TestScript, _ bool, args []string) {
	raw := func(s string) string {
		s, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
		ts.Check(err)
		return s
	}
	ts.Check(os.WriteFile(ts.MkAbs(raw(args[0])), []byte(raw(args[1])), 0o644))
}

// TestFields: every field that is printed is in the help and in the package comment.
func TestFields(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var help strings.Builder
	var texts func(*cobra.Command)
	texts = func(c *cobra.Command) {
		help.WriteString(c.Long)
		for _, sub := range c.Commands() {
			texts(sub)
		}
	}
	texts((&app{}).root())
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	tag := regexp.MustCompile("`json:\"([a-z_]+)")
	n := 0
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range tag.FindAllSubmatch(src, -1) {
			n++
			word := regexp.MustCompile(`\b` + string(m[1]) + `\b`)
			if !word.Match(doc) || !word.MatchString(help.String()) {
				t.Errorf("%s: %s is not documented", f, m[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d fields found", n)
	}
}

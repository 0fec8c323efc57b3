package source_test

import (
	"testing"

	"github.com/varvebackup/varve/source"
)

func TestConninfo(t *testing.T) {
	for _, tt := range []struct{ conn, want, password string }{
		{"", "dbname='x'", ""},
		{"dbname=shop", "dbname='x'", ""},
		{"host=h port = 5433\tuser='a b' password='it\\'s \\\\' sslmode=''", `host='h' port='5433' sslmode='' user='a b' dbname='x'`, `it's \`},
		{`host=\'h\ h`, `host='\'h h' dbname='x'`, ""},
		{"postgres://", "dbname='x'", ""},
		{"postgresql://h/shop", "host='h' dbname='x'", ""},
		{"postgres://u@h:5433", "host='h' port='5433' user='u' dbname='x'", ""},
		{"postgres://u:p%40ss@[::1]:5433/d%20b?connect_timeout=10&application_name=a%27b", `application_name='a\'b' connect_timeout='10' host='::1' port='5433' user='u' dbname='x'`, "p@ss"},
		{"postgres://u:p@ss@h1:1,[fe80::1],h3:3/db", "host='h1,fe80::1,h3' port='1,,3' user='u' dbname='x'", "p@ss"},
		{"postgres://%2Fvar%2Frun%2Fpostgresql/db", "host='/var/run/postgresql' dbname='x'", ""},
		{"postgres:///db?host=/var/run&password=x&user=u", "host='/var/run' user='u' dbname='x'", "x"},
		{"postgres://h/db?ssl=true", "host='h' sslmode='require' dbname='x'", ""},
	} {
		argument, password, err := source.Conninfo(tt.conn, "x")
		if err != nil || argument != tt.want || password != tt.password {
			t.Errorf("%s: %s, %s, %v", tt.conn, argument, password, err)
		}
	}
	for _, conn := range []string{"shop", "host", "=h", "a b=c", "user='u", "host=h 'x", "postgres://h/%zz", "postgres://h/db?x", "postgres://u:%p@h", "postgres://u:1/2@h/db", "postgres://u:p?a=w@h/db", "a=b h'=c"} {
		if argument, _, err := source.Conninfo(conn, "x"); err == nil {
			t.Errorf("%s: %s", conn, argument)
		}
	}
}

// FuzzConninfo: what a command line gets says the same as the connection string, but for the password.
func FuzzConninfo(f *testing.F) {
	f.Add(`host=h password='it\'s' user=a\ b`)
	f.Add("postgres://u:p@h1:1,[::1]/db?sslmode=require")
	f.Fuzz(func(t *testing.T, conn string) {
		argument, _, err := source.Conninfo(conn, "x")
		if err != nil {
			return
		}
		again, password, err := source.Conninfo(argument, "x")
		if err != nil || again != argument || password != "" {
			t.Errorf("%q: %q, then %q, %q, %v", conn, argument, again, password, err)
		}
	})
}

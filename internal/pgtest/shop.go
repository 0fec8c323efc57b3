package pgtest

import (
	_ "embed"
	"fmt"
	"os"
)

//go:embed shop.sql
var shopSQL string

//go:embed day.sql
var daySQL string

// Orders returns how many orders a Shop is to have: for a dump of 20 MB, or, with VARVE_TEST_LONG=1, of more than 300 MB.
func Orders() int {
	if os.Getenv("VARVE_TEST_LONG") == "1" {
		return 520_000
	}
	return 32_000
}

// Shop makes the database of a web shop: customers, products, orders with their lines, and events with text. Its dump as SQL has about 650 bytes for each order.
// The content is random, but the same each time.
func (s *Server) Shop(db string, orders int) {
	s.t.Helper()
	s.Create(db)
	s.Query(db, fmt.Sprintf("\\set orders %d\n%s", orders, shopSQL))
}

// Day does a day's business in a Shop: 1 % new orders, lines and events, while the oldest events go; as many orders, most of them recent, 0.5 % of the customers and 2 % of
// the products change, and so move to other places of their tables.
func (s *Server) Day(db string, day int) {
	s.t.Helper()
	s.Query(db, fmt.Sprintf("\\set day %d\n%s", day, daySQL))
}

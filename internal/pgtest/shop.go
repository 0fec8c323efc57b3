package pgtest

import (
	_ "embed"
	"fmt"
)

//go:embed shop.sql
var shopSQL string

//go:embed day.sql
var daySQL string

// Shop makes the database of a web shop: customers, products, orders with their lines, and events with text. Its dump as SQL has about 950 bytes for each order.
// The content is random, but the same each time.
func (s *Server) Shop(db string, orders int) {
	s.t.Helper()
	s.Create(db)
	s.Query(db, fmt.Sprintf("\\set orders %d\n%s", orders, shopSQL))
}

// Day does a day's business in a Shop: about 2 % new orders, lines and events; as many older orders, 1 % of the customers and 3 % of the products change, and so move
// to other places of their tables; old events go.
func (s *Server) Day(db string, day int) {
	s.t.Helper()
	s.Query(db, fmt.Sprintf("\\set day %d\n%s", day, daySQL))
}

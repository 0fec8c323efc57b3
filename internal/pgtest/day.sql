set max_parallel_workers_per_gather = 0;
set jit = off;
select setseed((:day % 1000) / 1000.0) \g /dev/null
select max(id) as orders, max(id) / 100 as few, max(placed_at) as now from orders \gset
select max(id) as events, min(id) as oldest from events \gset
select max(id) as customers from customers \gset
select max(id) as products from products \gset
\set words '(select array_agg(word order by n) from words)'

-- The space of rows that went or moved yesterday is used again, as autovacuum would have it.
vacuum;

begin;
insert into orders
select :orders + n, 1 + floor(random() * :customers), 'paid', (random() * 900)::numeric(10, 2), initcap(prose(6, :words)),
	:'now'::timestamptz + n * interval '97 seconds', :'now'::timestamptz + n * interval '97 seconds'
from generate_series(1, :few) n;
insert into order_lines
select :orders + o, l, 1 + floor(random() * :products), 1 + floor(random() * 4), (random() * 500)::numeric(10, 2)
from generate_series(1, :few) o, generate_series(1, 3) l;
insert into events
select :events + n, :'now'::timestamptz + n * interval '48 seconds', 1 + floor(random() * :customers),
	(array['view', 'view', 'view', 'search', 'cart', 'login', 'pay'])[1 + floor(random() * 7)], md5(random()::text)::uuid, prose(14, :words)
from generate_series(1, :few * 2) n;

-- Orders that change are recent, customers who come and products that are sold are any.
update orders set status = 'done', changed_at = :'now'
where id in (select :orders - floor(:orders * power(random(), 8))::bigint from generate_series(1, :few));
update customers set seen_at = :'now', settings = jsonb_set(settings, '{cart}', to_jsonb(floor(random() * 1e9))) where random() < 0.005;
update products set price = price * 1.05, stock = (random() * 1000)::int, updated_at = :'now' where random() < 0.02;
delete from events where id < :oldest + :few * 2;
commit;

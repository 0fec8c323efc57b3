set max_parallel_workers_per_gather = 0;
set jit = off;
select setseed(0.42) \g /dev/null

create table words (n int primary key, word text not null);
insert into words
select n, translate(substr(md5(n::text), 1, 2 + (n * 7) % 8), '0123456789', 'aeiousrntl')
from generate_series(0, 1999) n;

-- Words come as they do in a language: a few often, most seldom.
create function prose(words int, w text[]) returns text language plpgsql volatile as $$
declare
	r text := w[1 + floor(2000 * power(random(), 3))::int];
begin
	for i in 2..words loop
		r := r || ' ' || w[1 + floor(2000 * power(random(), 3))::int];
	end loop;
	return r;
end $$;
\set words '(select array_agg(word order by n) from words)'

create table customers (
	id bigint primary key,
	email text not null unique,
	name text not null,
	street text not null,
	city text not null,
	created_at timestamptz not null,
	seen_at timestamptz not null,
	settings jsonb not null,
	note text
);
create table products (
	id bigint primary key,
	sku text not null,
	name text not null,
	description text not null,
	price numeric(10, 2) not null,
	stock int not null,
	updated_at timestamptz not null
);
create table orders (
	id bigint primary key,
	customer_id bigint not null references customers,
	status text not null,
	total numeric(10, 2) not null,
	ship_to text not null,
	placed_at timestamptz not null,
	changed_at timestamptz not null
);
create table order_lines (
	order_id bigint not null references orders,
	line int not null,
	product_id bigint not null references products,
	quantity int not null,
	price numeric(10, 2) not null,
	primary key (order_id, line)
);
create table events (
	id bigint primary key,
	at timestamptz not null,
	customer_id bigint,
	kind text not null,
	session uuid not null,
	message text not null
);

insert into customers
select n, prose(1, :words) || n || '@' || prose(1, :words) || '.example', initcap(prose(2, :words)), initcap(prose(1, :words)) || ' ' || (random() * 200)::int,
	initcap(prose(1, :words)), '2023-01-01'::timestamptz + n * interval '7 minutes', '2024-01-01'::timestamptz + random() * interval '400 days',
	jsonb_build_object('lang', (array['de', 'en', 'en', 'fr', 'it'])[1 + floor(random() * 5)], 'news', random() < 0.3, 'cart', floor(random() * 1e9), 'theme', prose(1, :words)),
	case when random() < 0.4 then prose(30, :words) end
from generate_series(1, greatest(:orders / 2, 1)) n;

insert into products
select n, upper(substr(md5(random()::text), 1, 10)), initcap(prose(3, :words)), prose(80, :words), (random() * 500)::numeric(10, 2), (random() * 1000)::int,
	'2024-01-01'::timestamptz + n * interval '1 hour'
from generate_series(1, greatest(:orders / 20, 10)) n;

insert into orders
select n, 1 + floor(random() * greatest(:orders / 2, 1)), (array['paid', 'sent', 'done', 'done', 'done'])[1 + floor(random() * 5)], (random() * 900)::numeric(10, 2),
	initcap(prose(6, :words)), '2024-01-01'::timestamptz + n * interval '97 seconds', '2024-01-02'::timestamptz + n * interval '97 seconds'
from generate_series(1, :orders) n;

insert into order_lines
select o, l, 1 + floor(random() * greatest(:orders / 20, 10)), 1 + floor(random() * 4), (random() * 500)::numeric(10, 2)
from generate_series(1, :orders) o, generate_series(1, 3) l;

insert into events
select n, '2024-01-01'::timestamptz + n * interval '48 seconds', 1 + floor(random() * greatest(:orders / 2, 1)),
	(array['view', 'view', 'view', 'search', 'cart', 'login', 'pay'])[1 + floor(random() * 7)], md5(random()::text)::uuid, prose(14, :words)
from generate_series(1, :orders * 2) n;

create index on orders (customer_id, placed_at);
create index on events (at);
create view open_orders as select * from orders where status <> 'done';

-- Around the queries of the knowledge graph's pattern matcher, whose SQL is generated: see atlas/adapters/graph_matching.py.

-- name: limit_transaction
-- Until the end of the transaction, nothing may be written, statements end after $1 (such as 5000ms), and each is planned for its
-- own values; the cost of a plan then tells how much it reads from memory.
SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', $1, true),
    set_config('plan_cache_mode', 'force_custom_plan', true), set_config('random_page_cost', '1.1', true),
    set_config('work_mem', '32MB', true), set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
    set_config('join_collapse_limit', '12', true), set_config('from_collapse_limit', '12', true), set_config('geqo', 'off', true);

create function varve._release_shards(node varve.data_node, p_force boolean, p_repartition boolean) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$ begin end $$;

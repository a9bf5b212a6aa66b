import { expect, test } from 'vitest';
import { dataNodeStatement, type DataNodeRequest } from './data-node-statement.ts';

const request = (given: Partial<DataNodeRequest>): DataNodeRequest => ({
  action: undefined,
  name: undefined,
  host: undefined,
  port: undefined,
  nodeDatabase: undefined,
  bootstrap: true,
  ifNotExists: false,
  ifExists: false,
  force: false,
  dropDatabase: false,
  ...given,
});

test.each<[Partial<DataNodeRequest>, string]>([
  [{ action: 'list' }, 'select * from varve.data_nodes order by node_name'],
  [{ action: 'add', name: 'dn', host: 'h' }, "select * from add_data_node('dn', 'h')"],
  [
    {
      action: 'add',
      name: "d'n",
      host: 'h',
      port: 5,
      nodeDatabase: 'x',
      bootstrap: false,
      ifNotExists: true,
    },
    "select * from add_data_node('d''n', 'h', database => 'x', port => 5, bootstrap => false, if_not_exists => true)",
  ],
  [{ action: 'plan', name: 'dn', host: 'h', port: 5 }, "select * from plan_data_node('dn', 'h', port => 5)"],
  [{ action: 'remove', name: 'dn' }, "select delete_data_node('dn')"],
  [
    { action: 'remove', name: 'dn', ifExists: true, force: true, dropDatabase: true },
    "select delete_data_node('dn', if_exists => true, force => true, drop_database => true)",
  ],
])('%j is a call of the SQL function', (given, sql) => {
  expect(dataNodeStatement(request(given))).toBe(sql);
});

test.each<[Partial<DataNodeRequest>, RegExp]>([
  [{ action: 'add', name: 'dn' }, /HOST is missing/],
  [{ action: 'add' }, /NAME is missing/],
  [{ action: 'remove', name: '' }, /NAME is missing/],
  [{ action: 'drop', name: 'dn' }, /cannot "drop"/],
])('%j is refused', (given, message) => {
  expect(() => dataNodeStatement(request(given))).toThrow(message);
});

/** A fleet with every role, status and kind of field, and the entries of a registry in a comparable form. */
import type { Vm } from '../../src/protocol/vm.ts';
import { call } from './http.ts';
import { aVm } from './vm.ts';

export const FLEET = [
  aVm({ id: 'i', name: 'main', role: 'infra', services: [{ name: 'api', port: 80, healthPath: '/h', extra: [1] }] }),
  aVm({ id: 'w1', metadata: { task: 'x', deep: { a: [1, null] } } }),
  aVm({ id: 'w2', status: 'paused' }),
  aVm({ id: 'w3', status: 'stopped', name: 'ünï "q" \u202e' }),
  ...Array.from({ length: 20 }, (_, index) => aVm({ id: `n${index}` })),
];

/** The entries, oldest registration first, without the times that every registry sets itself. */
export async function fleetOf(url: string): Promise<unknown[]> {
  const { vms } = (await call(url, 'GET', '/registry/vms')).body as { vms: Vm[] };
  return vms.reverse().map(({ registeredAt: _at, lastSeen: _seen, ...vm }) => vm);
}

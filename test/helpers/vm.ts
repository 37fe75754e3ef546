import type { Registration } from '../../src/protocol/vm.ts';

/** A valid registration. @param more fields to replace */
export function aVm(more: Partial<Registration> = {}): Registration {
  return {
    id: 'vm-1',
    name: 'one',
    role: 'worker',
    status: 'running',
    address: 'vm-1.vm.vers.sh',
    registeredBy: 'test',
    ...more,
  };
}

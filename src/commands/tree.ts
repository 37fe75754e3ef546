import { defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { naming } from '../run/batch.ts';

export const tree = defineCommand({
  name: 'tree',
  summary: 'show which VM was made from which',
  description:
    'Shows VMs under the one that they were cloned from or made by (their parentId), oldest registration first: all, or one VM with all that came of it. JSON and -q give the same VMs in the same order, as a plain list.',
  arguments: [{ name: 'id', about: 'id of a VM (default: all)', optional: true, values: 'ids' }],
  examples: [
    { about: 'the whole fleet', command: 'vreg tree' },
    { about: 'what came of the golden image', command: 'vreg tree golden-1' },
    { about: 'how many is that?', command: 'vreg tree golden-1 -q | wc -l' },
  ],
  exits: [2, 3, 8],
  async run(context, [id]) {
    const client = context.client();
    const known = id !== undefined && (await client.isVreg()) ? await naming(id, client.subtree(id)) : undefined;
    const vms = known ?? (await client.list()).reverse();
    const rows = arrange(vms, id);
    if (rows.length === 0 && id !== undefined) {
      throw new VregError('NOT_FOUND', `VM "${id}" is neither registered nor anybody's parent`, {
        field: 'id',
        hint: 'see what is registered: vreg ls',
      });
    }
    const isDrawn = context.format === 'table' || context.format === 'wide';
    const answer = vmsAnswer(
      rows.map(({ vm }) => vm),
      { none: 'no VMs' },
    );
    const branchOf = new Map(rows.map(({ vm, branch }) => [vm, branch]));
    const [first, ...others] = answer.columns;
    await context.print({
      ...answer,
      columns: [
        isDrawn ? { ...first!, cell: (vm: VmWithLiveness) => `${branchOf.get(vm)}${vm.id}` } : first!,
        ...others,
        { title: 'PARENT', cell: ({ parentId }) => parentId ?? '-' },
      ],
    });
  },
});

interface Row {
  vm: VmWithLiveness;
  /** The lines that lead to it. */
  branch: string;
}

/**
 * Depth first, each VM once, however the entries say they hang together.
 * @param vms oldest registration first
 * @param root whose tree is wanted; every tree when it is left out
 */
function arrange(vms: readonly VmWithLiveness[], root: string | undefined): Row[] {
  const ids = new Set(vms.map(({ id }) => id));
  const children = new Map<string, VmWithLiveness[]>();
  for (const vm of vms) {
    if (vm.parentId === undefined) continue;
    const siblings = children.get(vm.parentId);
    if (siblings) siblings.push(vm);
    else children.set(vm.parentId, [vm]);
  }
  const rows: Row[] = [];
  const seen = new Set<VmWithLiveness>();
  const grow = (from: VmWithLiveness) => {
    // A list of what is to be drawn, and no recursion: generations of clones may be deeper than a stack.
    const waiting = [{ vm: from, branch: '', under: '' }];
    seen.add(from);
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const { vm, branch, under } = next;
      rows.push({ vm, branch });
      const own = (children.get(vm.id) ?? []).filter((child) => !seen.has(child));
      for (const child of own.toReversed()) {
        const isLast = child === own.at(-1);
        seen.add(child);
        waiting.push({
          vm: child,
          branch: `${under}${isLast ? '└─ ' : '├─ '}`,
          under: `${under}${isLast ? '   ' : '│  '}`,
        });
      }
    }
  };
  const isRoot = ({ id, parentId }: VmWithLiveness) =>
    root === undefined ? parentId === undefined || !ids.has(parentId) : id === root;
  const roots = vms.filter(isRoot);
  // Of a parent that is not registered, its children stand for it.
  for (const vm of roots.length > 0 || root === undefined ? roots : (children.get(root) ?? [])) grow(vm);
  // Those that go in a circle have no root.
  if (root === undefined) for (const vm of vms) if (!seen.has(vm)) grow(vm);
  return rows;
}

import { defineCommand } from '../command.ts';
import { clonesAnswer, clonesOf } from '../fleet/clones.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { naming } from '../run/batch.ts';

export const tree = defineCommand<{ clones?: boolean }>({
  name: 'tree',
  summary: 'show VMs as a tree of parents and clones',
  description:
    'Shows each VM under its parent, the VM from which it was cloned or created (parentId), oldest registration first. With an id, shows that VM and its descendants. JSON and -q list the same VMs in the same order. With --clones, shows the clones that the registry has detected, live and past, each below the VM from which it was copied. They remain on record until they are cleared with vreg conflicts --clear.',
  arguments: [{ name: 'id', about: 'id of a VM (default: all)', optional: true, values: 'ids' }],
  flags: [{ flags: '--clones', about: 'show the clones of the VM, live and past, instead of its descendants' }],
  examples: [
    { about: 'all VMs', command: 'vreg tree' },
    { about: 'the descendants of the golden image', command: 'vreg tree golden-1' },
    { about: 'the clones of a VM', command: 'vreg tree worker-1 --clones' },
    { about: 'the number of descendants', command: 'vreg tree golden-1 -q | wc -l' },
  ],
  exits: [2, 3, 8],
  async run(context, [id], { clones }) {
    const client = context.client();
    const isDrawn = context.format === 'table' || context.format === 'wide';
    if (clones) {
      const found = await clonesOf(client, id);
      // A clone without an id of its own must not be confused with the VM from which it was copied.
      return context.print(
        clonesAnswer(context.format === 'name' ? found.filter((each) => each.id !== null) : found, isDrawn),
      );
    }
    const known = id !== undefined && (await client.isVreg()) ? await naming(id, client.subtree(id)) : undefined;
    const vms = known ?? (await client.listAtOnce()).reverse();
    const rows = depthFirst(vms, id);
    if (rows.length === 0 && id !== undefined) {
      throw new VregError('NOT_FOUND', `VM "${id}" is neither registered nor a parent`, {
        field: 'id',
        hint: 'list registered VMs: vreg ls',
      });
    }
    const answer = vmsAnswer(
      rows.map(({ vm }) => vm),
      { none: 'no VMs', now: client.server.now },
    );
    const branchOf = new Map(rows.map(({ vm, branch }) => [vm.id, branch]));
    const [first, ...others] = answer.columns;
    await context.print({
      ...answer,
      columns: [
        // Without the cut in the middle of an id, which would remove the lines of the tree.
        isDrawn ? { title: 'ID', priority: first!.priority!, cell: (vm) => `${branchOf.get(vm.id)}${vm.id}` } : first!,
        ...others.filter(({ title }) => title !== 'PARENT'),
        { title: 'PARENT', cell: ({ parentId }) => parentId },
      ],
    });
  },
});

/** Levels of the tree that are drawn before an id. An ellipsis replaces the others, so that the id stays visible. */
const MAX_LEVELS = 8;
/** The prefix of one level. */
const LINE = '│  ';
const SPACE = '   ';

interface Row {
  vm: VmWithLiveness;
  /** Line-drawing prefix, such as `│  └─ `. */
  branch: string;
}

/** Replaces the outermost levels of a prefix by an ellipsis. */
function limitLevels(under: string): string {
  const excess = under.length - (MAX_LEVELS - 1) * LINE.length;
  return excess > 0 ? `…  ${under.slice(excess + LINE.length)}` : under;
}

/**
 * Returns the VMs in depth-first order, each once, even if the parents form a cycle.
 * @param vms oldest registration first
 * @param root id of the VM whose tree to return; undefined for all trees
 */
function depthFirst(vms: readonly VmWithLiveness[], root: string | undefined): Row[] {
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
  const addTree = (from: VmWithLiveness) => {
    // An explicit stack, because generations of clones can be deeper than the call stack.
    const stack = [{ vm: from, branch: '', under: '' }];
    seen.add(from);
    for (let next = stack.pop(); next; next = stack.pop()) {
      const { vm, branch, under } = next;
      rows.push({ vm, branch });
      const own = (children.get(vm.id) ?? []).filter((child) => !seen.has(child));
      for (const child of own.toReversed()) {
        const isLast = child === own.at(-1);
        seen.add(child);
        stack.push({
          vm: child,
          branch: `${under}${isLast ? '└─ ' : '├─ '}`,
          under: limitLevels(`${under}${isLast ? SPACE : LINE}`),
        });
      }
    }
  };
  const isRoot = ({ id, parentId }: VmWithLiveness) =>
    root === undefined ? parentId === undefined || !ids.has(parentId) : id === root;
  const roots = vms.filter(isRoot);
  // If the requested root is not registered, only its children can be shown.
  for (const vm of roots.length > 0 || root === undefined ? roots : (children.get(root) ?? [])) addTree(vm);
  // VMs in a cycle have no root.
  if (root === undefined) for (const vm of vms) if (!seen.has(vm)) addTree(vm);
  return rows;
}

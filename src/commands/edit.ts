import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { type Context, defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { VregError } from '../protocol/errors.ts';
import { parseUpdate, type VmUpdate } from '../protocol/vm.ts';
import { naming } from '../run/batch.ts';
import { openEditor } from '../run/child-process.ts';

export const edit = defineCommand({
  name: 'edit',
  summary: 'edit a VM in $EDITOR',
  description:
    'Opens the editable fields of a VM as JSON in $VISUAL, $EDITOR or vi, and sends the changes. Requires a terminal; in scripts, use vreg update. If another client changed the VM in the meantime, nothing is sent (exit code 4), and your edits are saved to a file.',
  arguments: [{ name: 'id', about: 'id of the VM', values: 'ids' }],
  examples: [
    { about: 'in your editor', command: 'vreg edit abc-123-def' },
    { about: 'in another editor', command: 'EDITOR=nano vreg edit abc-123-def' },
    { about: 'with sed instead of an editor', command: `EDITOR='sed -i s/running/paused/' vreg edit abc-123-def` },
  ],
  exits: [2, 3, 4, 6, 7, 8],
  async run(context, [id]) {
    if (!context.io.canAsk)
      throw new VregError('REFUSED', 'cannot open an editor without a terminal', {
        hint: `in a script, use: vreg update ${id} --status paused, or another field`,
      });
    const client = context.client();
    const { vm, etag } = await naming(id!, client.getWithEtag(id!));
    const { name, status, address, services = [], metadata = {} } = vm;
    const before = { name, status, address, services, metadata };
    const text = `${JSON.stringify(before, null, 2)}\n`;
    const dir = mkdtempSync(join(context.env.TMPDIR || tmpdir(), 'vreg-edit-'));
    const file = join(dir, 'vm.json');
    writeFileSync(file, text, { mode: 0o600 });
    try {
      await openEditor(context, file);
      const changes = readChanges(before, readFileSync(file, 'utf8'));
      if (Object.keys(changes).length === 0) context.note('no changes');
      else await context.print(vmsAnswer([await client.update(id!, changes, etag)], { single: true }));
    } catch (error) {
      // Never discard text that the user has written.
      if (existsSync(file) && readFileSync(file, 'utf8') !== text) throw withKeptText(context, error, file, id!);
      rmSync(dir, { recursive: true });
      throw error;
    }
    rmSync(dir, { recursive: true });
  },
});

/**
 * Returns only the fields that differ, so that concurrent changes to other fields survive on a server without preconditions.
 * Services or metadata that were deleted from the text become empty.
 */
function readChanges(before: Readonly<Record<string, unknown>>, text: string): VmUpdate {
  const edited = parse(text);
  for (const field of Object.keys(edited)) {
    if (!(field in before)) throw new VregError('INVALID', `${field} cannot be changed`, { field });
  }
  const changed = Object.keys(before).filter((field) => !isDeepStrictEqual(edited[field], before[field]));
  const { services, metadata, ...texts } = Object.fromEntries(
    changed.map((field) => [field, edited[field] ?? null]),
  ) as Record<string, unknown>;
  return parseUpdate({
    ...texts,
    ...(services === undefined ? {} : { services: services ?? [] }),
    ...(metadata === undefined ? {} : { metadata: metadata ?? {} }),
  });
}

function parse(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new VregError('INVALID', `the edited text is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new VregError('INVALID', 'the edited text is not a JSON object');
}

/** Names the file with the user's edits: in the hint of the error or, if a signal ended the editor, in a note. */
function withKeptText(context: Context, error: unknown, file: string, id: string): unknown {
  const hint = `your edits are in ${file}; start again with: vreg edit ${id}`;
  if (error instanceof VregError) return new VregError(error.code, error.message, { hint, cause: error });
  context.note(hint);
  return error;
}

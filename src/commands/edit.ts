import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { VregError } from '../protocol/errors.ts';
import { parseUpdate, type VmUpdate } from '../protocol/vm.ts';
import { naming } from '../run/batch.ts';
import { openEditor } from '../run/editor.ts';

export const edit = defineCommand({
  name: 'edit',
  summary: 'edit a VM in $EDITOR',
  description:
    'Opens the fields of a VM that can be changed as JSON in $VISUAL, $EDITOR or vi, and sends what was changed. If somebody else changed the VM meanwhile, nothing is sent (exit code 4) and your text is kept.',
  arguments: [{ name: 'id', about: 'id of the VM', values: 'ids' }],
  examples: [
    { about: 'with your editor', command: 'vreg edit abc-123-def' },
    { about: 'with another', command: 'EDITOR=nano vreg edit abc-123-def' },
    { about: 'with a program', command: `EDITOR='sed -i s/running/paused/' vreg edit abc-123-def` },
  ],
  exits: [2, 3, 4, 8],
  async run(context, [id]) {
    const client = context.client();
    const { vm, revision } = await naming(id!, client.getWithRevision(id!));
    const { name, status, address, services = [], metadata = {} } = vm;
    const before = { name, status, address, services, metadata };
    const text = `${JSON.stringify(before, null, 2)}\n`;
    const dir = mkdtempSync(join(tmpdir(), 'vreg-edit-'));
    const file = join(dir, 'vm.json');
    writeFileSync(file, text, { mode: 0o600 });
    try {
      await openEditor(context, file);
      const changes = readChanges(before, readFileSync(file, 'utf8'));
      if (Object.keys(changes).length === 0) context.note('nothing was changed');
      else await context.print(vmsAnswer([await client.update(id!, changes, revision)], { single: true }));
    } catch (error) {
      // What somebody has written is never thrown away.
      if (existsSync(file) && readFileSync(file, 'utf8') !== text) throw keepingText(error, file, id!);
      rmSync(dir, { recursive: true });
      throw error;
    }
    rmSync(dir, { recursive: true });
  },
});

/**
 * Only the fields that differ, so that others may change meanwhile on a server without preconditions. A list of services
 * or metadata that was taken out is taken away.
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
    throw new VregError('INVALID', `that is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new VregError('INVALID', 'that is not a JSON object');
}

function keepingText(error: unknown, file: string, id: string): unknown {
  if (!(error instanceof VregError)) return error;
  return new VregError(error.code, error.message, {
    hint: `your text is kept in ${file}; begin anew with: vreg edit ${id}`,
    cause: error,
  });
}

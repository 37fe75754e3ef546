import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defineCommand } from '../command.ts';
import { openEditor } from '../editor.ts';
import { VregError } from '../protocol/errors.ts';
import { parseUpdate, type VmUpdate } from '../protocol/vm.ts';
import { vmsAnswer } from '../vm-answer.ts';

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
    const { vm, revision } = await client.getWithRevision(id!);
    const { name, status, address, services = [], metadata = {} } = vm;
    const before = `${JSON.stringify({ name, status, address, services, metadata }, null, 2)}\n`;
    const dir = mkdtempSync(join(tmpdir(), 'vreg-edit-'));
    const file = join(dir, `${encodeURIComponent(id!)}.json`);
    writeFileSync(file, before, { mode: 0o600 });
    await openEditor(context, file);
    const after = readFileSync(file, 'utf8');
    if (after === before) {
      context.note('nothing was changed');
    } else {
      const changes = readChanges(before, after, file);
      await context.print(
        vmsAnswer([await client.update(id!, changes, revision).catch((error: unknown) => keepText(error, file))], {
          single: true,
        }),
      );
    }
    rmSync(dir, { recursive: true });
  },
});

/** Only the fields that differ, so that others may change meanwhile on a server without preconditions. */
function readChanges(before: string, after: string, file: string): VmUpdate {
  try {
    const old = JSON.parse(before) as Record<string, unknown>;
    const edited = JSON.parse(after) as Record<string, unknown>;
    const changed = Object.entries(edited).filter(
      ([field, value]) => JSON.stringify(value) !== JSON.stringify(old[field]),
    );
    return parseUpdate(Object.fromEntries(changed));
  } catch (error) {
    if (error instanceof SyntaxError)
      return keepText(new VregError('INVALID', `that is not JSON: ${error.message}`, { field: 'body' }), file);
    return keepText(error, file);
  }
}

function keepText(error: unknown, file: string): never {
  if (!(error instanceof VregError)) throw error;
  throw new VregError(error.code, error.message, {
    hint: `your text is kept in ${file}; edit the VM again: vreg edit ID`,
    cause: error,
  });
}

import { defineCommand } from '../../command.ts';
import { dataDirOf } from './process.ts';

export const restore = defineCommand<{ yes?: boolean }>({
  name: 'restore',
  summary: 'put a backup in the place of the registry',
  description:
    'Puts a backup in the place of the registry of a data dir, whose daemon must not run. The backup is checked first, and what was there is kept beside it. A token that was revoked since the backup is good again. Asks first; a script says --yes.',
  arguments: [{ name: 'file', about: 'a backup, as vreg backup writes it' }],
  settings: ['data-dir'],
  flags: [{ flags: '-y, --yes', about: 'do not ask' }],
  examples: [
    { about: 'after a question', command: 'vreg daemon restore registry-backup.db' },
    { about: 'in a script', command: 'vreg daemon stop serve; vreg daemon restore registry-backup.db --yes' },
    { about: 'with another data dir', command: 'vreg daemon restore registry-backup.db --data-dir /var/lib/vreg' },
  ],
  exits: [4, 7],
  async run(context, [file], { yes }) {
    const dataDir = dataDirOf(context);
    await context.confirm(`Replace the registry in ${dataDir} by ${file}?`, yes);
    const { restore } = await import('../../../daemon/store/restore.ts');
    const restored = await restore(dataDir, file!);
    if (restored.kept !== undefined) context.note(`what was there is kept in ${restored.kept}`);
    await context.print({ kind: 'value', text: restored.dataDir, data: restored });
  },
});

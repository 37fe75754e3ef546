import { defineCommand } from '../../command.ts';
import { dataDirOf } from './process.ts';

export const restore = defineCommand<{ yes?: boolean }>({
  name: 'restore',
  summary: 'replace the registry with a backup',
  description:
    'Replaces the registry in a data dir with a backup. The daemon must not be running. The backup is verified first, and the old registry is kept in the data dir. Tokens that were revoked after the backup was made become valid again. Asks for confirmation unless --yes is given.',
  arguments: [{ name: 'file', about: 'a file written by vreg backup', file: true }],
  settings: ['data-dir', 'native-dir'],
  flags: [{ flags: '-y, --yes', about: 'do not ask for confirmation' }],
  examples: [
    { about: 'ask, then restore', command: 'vreg daemon restore registry-backup.db' },
    { about: 'restore from a script', command: 'vreg daemon stop serve; vreg daemon restore registry-backup.db --yes' },
    { about: 'restore another data dir', command: 'vreg daemon restore registry-backup.db --data-dir /var/lib/vreg' },
  ],
  exits: [4, 7],
  async run(context, [file], { yes }) {
    const dataDir = dataDirOf(context);
    await context.confirm(`Replace the registry in ${dataDir} with ${file}?`, yes);
    const { unpackAddon } = await import('../../../daemon/store/addon.ts');
    await unpackAddon(context.config.nativeDir);
    const { restore } = await import('../../../daemon/store/restore.ts');
    const restored = await restore(dataDir, file!);
    if (restored.kept !== undefined) context.note(`the old registry is kept in ${restored.kept}`);
    await context.print({ kind: 'value', text: restored.dataDir, data: restored });
  },
});

import type { EtcdOptions } from '../../../daemon/store/etcd/etcd-url.ts';
import type { Context } from '../../command.ts';
import { defineCommand } from '../../command.ts';
import { dataDirOf, namingOriginOfPath } from './process.ts';

export const restore = defineCommand<{ yes?: boolean }>({
  name: 'restore',
  summary: 'replace the registry with a backup',
  description:
    'Replaces the registry in a data dir with a backup. The daemon must not be running. The backup is verified first, and the old registry is kept in the data dir. Tokens that were revoked after the backup was made become valid again. With --store, restores into an etcd cluster, under a prefix that must be empty. The backup may be from a registry in a data dir or in etcd. Asks for confirmation unless --yes is given.',
  arguments: [{ name: 'file', about: 'a file written by vreg backup', file: true }],
  settings: ['data-dir', 'native-dir', 'store', 'etcd-user', 'etcd-password-file', 'etcd-ca', 'etcd-cert', 'etcd-key'],
  flags: [{ flags: '-y, --yes', about: 'do not ask for confirmation' }],
  examples: [
    { about: 'ask, then restore', command: 'vreg daemon restore registry-backup.db' },
    { about: 'restore from a script', command: 'vreg daemon stop serve; vreg daemon restore registry-backup.db --yes' },
    {
      about: 'move a registry to etcd',
      command: 'vreg daemon restore registry-backup.db --store etcd://a:2379,b:2379,c:2379/vreg/v1/',
    },
    { about: 'restore another data dir', command: 'vreg daemon restore registry-backup.db --data-dir /var/lib/vreg' },
  ],
  exits: [4, 7],
  async run(context, [file], { yes }) {
    const store = context.config.get('store');
    if (store !== undefined) return restoreToEtcd(context, file!, store);
    const dataDir = dataDirOf(context);
    await context.confirm(`Replace the registry in ${dataDir} with ${file}?`, yes);
    const { unpackAddon } = await import('../../../daemon/store/addon.ts');
    await unpackAddon(context.config.nativeDir);
    const { restore } = await import('../../../daemon/store/restore.ts');
    const restored = await namingOriginOfPath(context, restore(dataDir, file!));
    if (restored.kept !== undefined) context.note(`the old registry is kept in ${restored.kept}`);
    await context.print({ kind: 'value', text: restored.dataDir, data: restored });
  },
});

/** Needs no confirmation, because it replaces nothing. */
async function restoreToEtcd(context: Context, file: string, store: string): Promise<void> {
  const { config } = context;
  const options: EtcdOptions = {
    user: config.get('etcd-user'),
    passwordFile: config.get('etcd-password-file'),
    ca: config.get('etcd-ca'),
    cert: config.get('etcd-cert'),
    key: config.get('etcd-key'),
  };
  const [{ readEtcdTarget }, { restoreIntoEtcd }, { readBackup }, { unpackAddon }] = await Promise.all([
    import('../../../daemon/store/etcd/etcd-url.ts'),
    import('../../../daemon/store/etcd/restore-cluster.ts'),
    import('../../../daemon/store/backup-file.ts'),
    import('../../../daemon/store/addon.ts'),
  ]);
  const target = await readEtcdTarget(store, options);
  await unpackAddon(config.nativeDir);
  const contents = await readBackup(file);
  await restoreIntoEtcd(target, contents, store);
  await context.print({ kind: 'value', text: store, data: { store, count: contents.vms.length } });
}

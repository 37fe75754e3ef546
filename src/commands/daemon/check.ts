import { defineCommand } from '../../command.ts';
import { findingsAnswer } from '../../fleet/findings.ts';
import { missingFlag, VregError } from '../../protocol/errors.ts';

export const check = defineCommand({
  name: 'check',
  summary: 'check an etcd cluster for use as the store',
  description:
    'Checks an etcd cluster before a registry relies on it: its members and versions, transactions (which kine lacks), alarms, TLS, the permissions of the user and of everyone else, compaction, the quota, clocks, and how long a commit takes. Changes no key. Prints a fix for each warning and failure. Exits with 1 if a registry cannot run on the cluster; warnings do not affect the exit code.',
  settings: ['store', 'etcd-user', 'etcd-password-file', 'etcd-ca', 'etcd-cert', 'etcd-key'],
  examples: [
    { about: 'check a cluster', command: 'vreg daemon check --store etcd://a:2379,b:2379,c:2379/vreg/v1/' },
    {
      about: 'check with TLS and a user',
      command:
        'vreg daemon check --store etcds://a,b,c --etcd-ca ca.crt --etcd-user vreg --etcd-password-file password',
    },
    {
      about: 'the problems as JSON',
      command: `vreg daemon check --store etcd://a,b,c -o json | jq '.[] | select(.result != "ok")'`,
    },
  ],
  async run(context) {
    const { config } = context;
    const url = config.get('store');
    if (url === undefined)
      throw missingFlag('--store URL', 'for example: --store etcd://a:2379,b:2379,c:2379/vreg/v1/');
    const { readEtcdTarget } = await import('../../../daemon/store/etcd/etcd-url.ts');
    const target = await readEtcdTarget(url, {
      user: config.get('etcd-user'),
      passwordFile: config.get('etcd-password-file'),
      ca: config.get('etcd-ca'),
      cert: config.get('etcd-cert'),
      key: config.get('etcd-key'),
    });
    const { checkCluster } = await import('../../../daemon/store/etcd/check-cluster.ts');
    const findings = await checkCluster(target, () => context.now());
    await context.print(findingsAnswer(findings));
    const failure = findings.find(({ result }) => result === 'fail');
    if (failure)
      throw new VregError('STORE_UNUSABLE', `the check "${failure.check}" failed`, {
        hint: failure.fix ?? failure.detail,
      });
  },
});

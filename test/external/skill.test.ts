/** Runs every command of the skill, in its order, against the real daemon. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { loadAllCommands } from '../../src/commands.ts';
import { AUTHORIZED, RECIPES } from '../../src/skill/recipes.ts';
import { skillPage } from '../../src/skill.ts';
import { endAfter, startDaemon, tempDir } from '../helpers/daemon.ts';
import { runScript, runVreg } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';

test('every fenced command of the skill succeeds', unless('bash', 'curl', 'jq'), async (t) => {
  const { url } = await startDaemon(t);
  const home = tempDir(t);
  const options = { url, home, env: { VERS_VM_ID: 'vm-1', VERS_AGENT_NAME: 'one' } };
  endAfter(t, () => runVreg(['daemon', 'stop', 'agent'], options));
  const blocks = [...skillPage(await loadAllCommands()).matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(
    ([, block]) => block!,
  );
  assert.equal(blocks.length, 1 + RECIPES.flatMap(({ vreg, curl }) => [vreg, curl].filter((block) => block)).length);
  for (const block of blocks) {
    // One shell per block, because a coding agent starts a new one for each command.
    const { code, stderr } = await runScript(['bash', '--norc', '-eu', '-o', 'pipefail'], block, options);
    assert.equal(code, 0, `${block}\n${stderr}`);
  }
  const left = await runVreg(['ls', '-q'], options);
  assert.deepEqual(left.stdout.split('\n').sort(), ['', 'infra-1', 'vm-1']);
});

test(
  'every curl recipe of the skill succeeds with a token, which no argument contains',
  unless('bash', 'curl', 'jq'),
  async (t) => {
    const token = 'a-token-of-the-registry';
    const { url, vreg } = await startDaemon(t, { env: { VERS_AUTH_TOKEN: token } });
    await vreg(['register', 'vm-1', '--address', 'one']);
    await vreg(['register', 'infra-1', '--role', 'infra', '--address', 'infra']);
    await vreg(['register', 'abc-123-def', '--address', 'abc']);
    const options = { url, home: tempDir(t), env: { VERS_VM_ID: 'vm-1', VERS_AUTH_TOKEN: token } };
    for (const { curl } of RECIPES) {
      if (!curl) continue;
      const block = `${AUTHORIZED}\n${curl.replace(/\bcurl\b/g, 'authorized')}`;
      const { code, stderr } = await runScript(['bash', '--norc', '-eu', '-o', 'pipefail'], block, options);
      assert.equal(code, 0, `${block}\n${stderr}`);
    }
  },
);

/** Signals while the program waits for the reader of its output. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { cleanEnv, ENTRY, PROGRAM, tempDir } from '../helpers/daemon.ts';
import { aVm } from '../helpers/vm.ts';

/** Bytes of an answer that exceeds the buffer of a socket, 208 kB by default (net.core.wmem_default): Node's pipes are sockets. */
const LARGE = 1_000_000;

for (const args of [['ls', '-o', 'json'], ['export']]) {
  for (const [signal, expected] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const) {
    test(`${signal} ends vreg ${args[0]} while nobody reads its output`, { timeout: 30_000 }, async (t) => {
      const { url } = await serveApp(t);
      const metadata = { note: 'x'.repeat(LARGE / 20) };
      await seed(
        url,
        Array.from({ length: 20 }, (_, n) => aVm({ id: `vm-${n}`, metadata })),
      );
      const child = spawn(PROGRAM, [...ENTRY, ...args], {
        env: cleanEnv(tempDir(t), { VERS_INFRA_URL: url }),
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      t.after(() => child.kill('SIGKILL'));
      await once(child.stdout, 'readable');
      child.kill(signal);
      assert.deepEqual(await once(child, 'exit', { signal: t.signal }), [expected, null]);
    });
  }
}

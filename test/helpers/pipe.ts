/** A named pipe that a test reads when it wants to. The pipes that Node gives its children are sockets. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

export interface Pipe {
  /** File descriptor to write to. */
  writer: number;
  /** @returns everything that was written so far */
  read(): string;
}

export function makePipe(t: TestContext, dir: string): Pipe {
  const path = join(dir, 'pipe');
  assert.equal(spawnSync('mkfifo', [path]).status, 0);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(path, constants.O_WRONLY);
  t.after(() => {
    closeSync(reader);
    closeSync(writer);
  });
  const buffer = Buffer.alloc(65_536);
  let text = '';
  const read = () => {
    try {
      text += buffer.toString('latin1', 0, readSync(reader, buffer));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'EAGAIN');
    }
    return text;
  };
  return { writer, read };
}

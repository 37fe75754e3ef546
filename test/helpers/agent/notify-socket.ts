/** The notification socket of a service manager: a unix datagram socket, opened by python3 because Node cannot. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { tempDir } from '../daemon.ts';
import { PYTHON } from '../tools.ts';
import { until } from '../until.ts';

const LISTEN = `
import json, socket, sys
ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ear.bind(sys.argv[1])
print(json.dumps(None), flush=True)
while True:
    # A BARRIER comes with a file, which is closed when it is not taken: that is what the sender waits for.
    print(json.dumps(ear.recv(65536).decode()), flush=True)
`;

export interface NotifySocket {
  path: string;
  /** The messages in order, each as its lines, without barriers. */
  heard(): string[][];
  /** Waits for a message with this line. @param from number of messages to skip */
  says(line: string | RegExp, from?: number): Promise<string[]>;
}

export async function notifySocket(t: TestContext): Promise<NotifySocket> {
  const path = join(tempDir(t), 'notify');
  const child = spawn(PYTHON, ['-c', LISTEN, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  const messages = () =>
    text
      .split('\n')
      .slice(1, -1)
      .map((line) => (JSON.parse(line) as string).trim().split('\n'));
  const heard = () => messages().filter(([first]) => first !== 'BARRIER=1');
  await until('the socket', () => text.includes('\n'));
  const says = (line: string | RegExp, from = 0) =>
    until(`${line} among ${JSON.stringify(heard())}`, () =>
      heard()
        .slice(from)
        .find((lines) => lines.some((said) => (typeof line === 'string' ? said === line : line.test(said)))),
    );
  return { path, heard, says };
}

import assert from 'node:assert/strict';
import test from 'node:test';
import { LogDestination } from '../../../daemon/process/log-destination.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { makePipe } from '../../helpers/pipe.ts';
import { unless } from '../../helpers/tools.ts';
import { until } from '../../helpers/until.ts';

test(
  'a log without a reader buffers one megabyte, then drops lines and reports how many',
  unless('mkfifo'),
  async (t) => {
    const { writer: fd, read } = makePipe(t, tempDir(t));
    const destination = new LogDestination({
      fd,
      maxBuffered: 1_048_576,
      droppedNotice: (dropped) => `dropped ${dropped}\n`,
    });
    const line = `${'x'.repeat(999)}\n`;
    for (let i = 0; i < 2000; i++) destination.write(line);
    const [text, dropped] = await until('the notice', () => /^.*dropped (\d+)\n$/s.exec(read()) ?? undefined);
    const lines = text.split('\n').slice(0, -2);
    assert.ok(lines.every((each) => each === line.trim()));
    assert.equal(lines.length + Number(dropped), 2000);
    assert.ok(lines.length >= 1000, `${lines.length} were buffered`);
    destination.write('again\n');
    assert.ok(read().endsWith('again\n'));
  },
);

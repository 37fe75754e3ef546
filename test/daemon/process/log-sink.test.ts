import assert from 'node:assert/strict';
import test from 'node:test';
import { LogSink } from '../../../daemon/process/log-sink.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { makePipe } from '../../helpers/pipe.ts';
import { unless } from '../../helpers/tools.ts';
import { until } from '../../helpers/until.ts';

test('a log that nobody reads keeps a megabyte, counts what it loses, and says so', unless('mkfifo'), async (t) => {
  const { writer: fd, read } = makePipe(t, tempDir(t));
  const sink = new LogSink({ fd, notice: (lost) => `lost ${lost}\n` });
  const line = `${'x'.repeat(999)}\n`;
  for (let i = 0; i < 2000; i++) sink.write(line);
  const [text, lost] = await until('the notice', () => /^.*lost (\d+)\n$/s.exec(read()) ?? undefined);
  const lines = text.split('\n').slice(0, -2);
  assert.ok(lines.every((each) => each === line.trim()));
  assert.equal(lines.length + Number(lost), 2000);
  assert.ok(lines.length >= 1000, `${lines.length} were kept`);
  sink.write('again\n');
  assert.ok(read().endsWith('again\n'));
});

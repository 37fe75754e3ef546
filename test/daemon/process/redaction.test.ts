import assert from 'node:assert/strict';
import test from 'node:test';
import { keepOutOfLog, redact } from '../../../daemon/process/redaction.ts';

/** Each byte percent-encoded. */
const allEncoded = (text: string) => Buffer.from(text).toString('hex').replace(/../g, '%$&');

test('a secret is kept out of the log as it is, as JSON has it, and in each percent-encoding', () => {
  const secret = 'abc+def/"ghä\\%5%25[j].l==';
  keepOutOfLog(secret);
  const forms = [
    secret,
    JSON.stringify(secret).slice(1, -1),
    encodeURIComponent(secret),
    encodeURIComponent(secret).toLowerCase(),
    encodeURIComponent(secret).replaceAll('%2F', '/'),
    encodeURI(secret),
    allEncoded(secret),
    allEncoded(secret).toUpperCase(),
  ];
  for (const form of forms) assert.equal(redact(`GET /x/${form}/y?z=${form}`), 'GET /x/***/y?z=***', form);
  assert.equal(redact(secret.toUpperCase()), secret.toUpperCase());
});

test('what is too short to be a secret stays in the log', () => {
  keepOutOfLog('a');
  assert.equal(redact('a %61'), 'a %61');
});

test('a line that is made to be slow to search is not', { timeout: 5000 }, () => {
  const secrets = ['%', '%25', '\\', '"', 'ab'].map((part) => `${part.repeat(40)}!`);
  for (const secret of secrets) keepOutOfLog(secret);
  // As long as the longest header, twice: of a URL and of what is told of it.
  const length = 32_768;
  for (const part of ['%', '%25', '%2525', '\\', '%5c', '%61%62', 'ab%61b', '\\"%22'])
    assert.equal(redact(part.repeat(length / part.length)), part.repeat(length / part.length), part);
  keepOutOfLog('ä'.repeat(16_384));
  assert.equal(redact(`%${'%c3%A4'.repeat(16_384)} %`), '%*** %');
});

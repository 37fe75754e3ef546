import assert from 'node:assert/strict';
import test from 'node:test';
import {
  escapeControls,
  maskName,
  maskRegistryUrl,
  maskUrlUsers,
  printable,
  registryUrlFault,
  SecretMask,
} from '../../src/protocol/redact.ts';

test('printable replaces every control character that a terminal obeys', () => {
  for (let code = 0; code < 0x20; code++) assert.equal(printable(String.fromCharCode(code)), '\ufffd');
  for (let code = 0x7f; code < 0xa0; code++) assert.equal(printable(String.fromCharCode(code)), '\ufffd');
  for (const character of '\u2028\u2029\u202a\u202e\u2066\u2069') assert.equal(printable(character), '\ufffd');
});

test('printable keeps the letters of all scripts', () => {
  const text = 'aé 漢字 עברית 👩‍💻 \u00a0~';
  assert.equal(printable(text), text);
});

test('escaping control characters in JSON keeps the value', () => {
  const value = { name: 'a\u001b\u007f\u009b\u2028\u202eb' };
  const json = escapeControls(JSON.stringify(value));
  assert.match(json, /^[ -~]+$/);
  assert.deepEqual(JSON.parse(json), value);
});

/** Percent-encodes each byte. */
const percentEncoded = (text: string) => Buffer.from(text).toString('hex').replace(/../g, '%$&');

test('a secret is masked as it is, escaped in JSON, and in each percent-encoding', () => {
  const secret = 'abc+def/"ghä\\%5%25[j].l==';
  const mask = new SecretMask();
  mask.add(secret);
  const json = JSON.stringify(secret).slice(1, -1);
  const forms = [
    secret,
    json,
    json.replace('"', '\\u0022').replace('ä', '\\u00E4'),
    encodeURIComponent(secret),
    encodeURIComponent(secret).toLowerCase(),
    encodeURIComponent(secret).replaceAll('%2F', '/'),
    encodeURI(secret),
    percentEncoded(secret),
    percentEncoded(secret).toUpperCase(),
  ];
  for (const form of forms) assert.equal(mask.mask(`GET /x/${form}/y?z=${form}`), 'GET /x/***/y?z=***', form);
  assert.equal(mask.mask(secret.toUpperCase()), secret.toUpperCase());
});

test('a secret is masked in JSON within JSON', () => {
  const secret = String.raw`first"half\of-the-secret`;
  const mask = new SecretMask();
  mask.add(secret);
  const nested = JSON.stringify(JSON.stringify({ secret }));
  assert.equal(mask.mask(nested), JSON.stringify(JSON.stringify({ secret: '***' })));
});

test('secrets of fewer than six characters are not masked', () => {
  const mask = new SecretMask();
  for (const secret of ['', 'a', 'short']) mask.add(secret);
  assert.equal(mask.mask('a short text: %61'), 'a short text: %61');
});

test('a secret that begins with another secret is masked completely', () => {
  const mask = new SecretMask();
  mask.add('secret-1');
  mask.add('secret-1-and-more');
  assert.equal(mask.mask('secret-1-and-more, secret-1'), '***, ***');
});

test('only the secret strings of an object are changed', () => {
  const mask = new SecretMask();
  mask.add('secret-1');
  const fields = { error: 'bad secret-1', lines: ['secret-1', 'b'], code: 5, deep: { error: 'secret-1' } };
  assert.deepEqual(mask.maskFields(fields), { ...fields, error: 'bad ***', lines: ['***', 'b'] });
});

test('masking takes linear time, also for a text that is made to be slow to search', { timeout: 5000 }, () => {
  const mask = new SecretMask();
  for (const part of ['%', '%25', '\\', '"', 'ab', 'x"']) mask.add(`${part.repeat(40)}!`);
  // A percent-encoded backslash may belong to the secret or to an escape around its characters.
  mask.add(`begin${'%5c'.repeat(40)}!`);
  // A URL of the maximum length of all headers, twice: once for the URL and once for the message about it.
  const length = 32_768;
  for (const part of ['%', '%25', '%2525', '\\', '%5c', '%61%62', 'ab%61b', '\\"%22', 'x\\"', 'u0075'])
    assert.equal(mask.mask(part.repeat(length / part.length)), part.repeat(length / part.length), part);
  const almost = `begin${'%5c'.repeat(10_000)}`;
  assert.equal(mask.mask(almost), almost);
  mask.add('ä'.repeat(16_384));
  assert.equal(mask.mask(`%${'%c3%A4'.repeat(16_384)} %`), '%*** %');
  mask.add('x"'.repeat(10_000));
  assert.equal(mask.mask(`a ${JSON.stringify('x"'.repeat(10_000))} b`), 'a "***" b');
});

test('an @ that does not follow a password is not masked', () => {
  const socket = 'unix:///run/user@1000.service/vreg.sock';
  assert.deepEqual(
    [registryUrlFault(socket), maskRegistryUrl(socket), maskUrlUsers(socket)],
    [undefined, socket, socket],
  );
  assert.equal(maskName('prod@eu'), 'prod@eu');
  assert.equal(maskUrlUsers('see http://a:b@h and //c@d, mail x@y'), 'see http://***@h and //***@d, mail x@y');
  assert.equal(registryUrlFault('http://h:1/a%40b'), undefined);
});

test('masking URLs takes linear time', { timeout: 60_000 }, () => {
  // A quadratic search of this text would take minutes.
  const text = '//a'.repeat(100_000);
  assert.equal(maskUrlUsers(text), text);
});

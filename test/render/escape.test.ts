/** Values as `vreg render --for` writes them, read back by a real shell, by nginx's tokenizer, by JSON.parse and as HTML. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import test from 'node:test';
import { escaperFor, type Format } from '../../src/render/escape.ts';
import { mustache } from '../../src/render/expression.ts';
import { evaluateJsonPath } from '../../src/render/jsonpath.ts';
import { tempDir } from '../helpers/daemon.ts';

/** Values of a worker that wants to run commands, leave its place or look like a flag. */
const HOSTILE = [
  '$(echo hacked)',
  '`echo hacked`',
  `$${'{HOME}'}`,
  "'; echo hacked; '",
  '"; echo hacked; "',
  "a'b",
  'a"b',
  'a\\',
  '\\"',
  "\\'",
  'a b',
  ' ',
  'a;b',
  'a|b&c>d<e',
  '#a',
  '~root',
  '*',
  'a\u00e9日本🦊',
  '!!',
  '%s%n',
  '{a,b}',
  'a=b',
  '</script><script>alert(1)</script>',
  '" onmouseover="alert(1)',
  "' onmouseover='alert(1)",
  '<img src=x onerror=alert(1)>',
  '-->',
  '&lt;',
  'a;} server { listen 81; }',
  '",\n"role":"infra'.replace('\n', ' '),
];
const PLAIN = ['a', '10.0.0.1:80', 'a/b@c.d+e-f_g', '0', 'fd00::1'];

async function rendered(format: Format | undefined, template: string, name: unknown): Promise<string> {
  const render = await mustache('t', 'hint', () => escaperFor(format));
  return render(template, { vm: [{ id: 'w', address: 'a', name }] });
}

/**
 * Runs each script in a shell of its own. One shell starts them, because that takes much less time than starting them from this
 * process.
 * @returns the output of each script
 * @throws if a script fails
 */
function runEach(shell: string, scripts: readonly string[], cwd = '.'): string[] {
  const loop = `for script do ${shell} -c "$script" || exit; printf '\\0'; done`;
  const output = execFileSync('sh', ['-c', loop, 'sh', ...scripts], { cwd, encoding: 'utf8', stdio: 'pipe' });
  return output.split('\0').slice(0, -1);
}

/** @returns undefined if the value was refused, which must name VM and field */
async function renderedOrRefused(format: Format | undefined, template: string, name: unknown) {
  try {
    return await rendered(format, template, name);
  } catch (error) {
    const { code, field, message } = error as { code: string; field: string; message: string };
    assert.deepEqual([code, field], ['INVALID', 'name'], message);
    assert.match(message, /^t: VM "w": the value of name /);
    return undefined;
  }
}

const PLACES: readonly [template: string, read: (text: string) => string][] = [
  ["printf '%s' {{#vm}}{{name}}{{/vm}}", (text) => text],
  ['printf \'%s\' "{{#vm}}{{name}}{{/vm}}"', (text) => text],
  ["printf '%s' '{{#vm}}{{name}}{{/vm}}'", (text) => text],
  ['A={{#vm}}{{name}}{{/vm}}; printf \'%s\' "$A"', (text) => text],
  [`A="x$${'{IFS}'}y$(echo z){{#vm}}{{name}}{{/vm}}"; printf '%s' "$A"`, (text) => text.slice('x \t\nyz'.length)],
  ["# {{#vm}}{{name}}{{/vm}}\nprintf '%s' {{#vm}}{{name}}{{/vm}}", (text) => text],
  ["printf '%s' pre{{#vm}}{{name}}{{/vm}}", (text) => text.slice(3)],
];

for (const [template, read] of PLACES) {
  test(`a shell reads each escaped value unchanged: ${JSON.stringify(template)}`, async () => {
    const values: string[] = [];
    const scripts: string[] = [];
    for (const value of [...HOSTILE, ...PLAIN, '']) {
      if (value.startsWith('-') && (await renderedOrRefused('shell', template, value)) === undefined) continue;
      values.push(value);
      scripts.push(await rendered('shell', template, value));
    }
    assert.deepEqual(runEach('sh', scripts).map(read), values);
  });
}

/** Places whose quoting the escaper does not know, or in which no quotes are possible. */
const UNKNOWN = [
  'cat <<EOF\n',
  'echo `echo ',
  'echo "$(echo "',
  "echo $'",
  'echo ${A:-',
  'echo $(( ',
  '\\',
  '((',
  "cat <<'EOF'\n",
  'cat <\\\n<EOF\n',
  'echo $[',
  'echo "$[',
  'echo "$(case a in a) echo ',
  'a[',
  'a=([',
  '[[ ',
  'case a in !(b) ',
  'a=(1)#',
];

test('a shell script gets plain values only inside substitutions, here-documents and after a backslash', async () => {
  for (const before of UNKNOWN) {
    for (const value of HOSTILE)
      assert.equal(
        await renderedOrRefused('shell', `${before}{{#vm}}{{name}}{{/vm}}`, value),
        undefined,
        before + value,
      );
    assert.equal(await rendered('shell', `${before}{{#vm}}{{name}}{{/vm}}`, 'a.b'), `${before}a.b`);
  }
});

test('a shell script gets plain values only where a second shell parses them', async () => {
  for (const before of [
    "sh -c 'echo ",
    'bash -ec "',
    'bash -c"echo ',
    'bash -c\\\n"echo ',
    'eval echo ',
    'eval "',
    '\\eval "',
    "trap '",
    "alias a='",
    'ssh host "echo ',
    '"ssh" host ',
    "'ssh' host ",
    'ssh host 2>&1 ',
    'ssh host &>log ',
    'ssh host >|log ',
    'rsync -a "host:',
    'su --command="',
    "perl -e '",
    'perl -E "',
    'sudo php -r "',
    'A=b node -p "',
    'env -S "',
    'make X=',
    'su root --session-command "',
    'tmux new -d "',
    'PS1="[',
    'export PROMPT_COMMAND=',
    'GIT_SSH_COMMAND="',
    'complete -W "',
    'bash <(echo "',
    'let ',
    'test -v "',
  ])
    for (const value of HOSTILE)
      assert.equal(
        await renderedOrRefused('shell', `${before}{{#vm}}{{name}}{{/vm}}`, value),
        undefined,
        before + value,
      );
  for (const after of ['" | sh', '" | sudo bash', '" a \\\n | /bin/sh -x', ' {{id}}" | xargs rm'])
    for (const value of HOSTILE)
      assert.equal(
        await renderedOrRefused('shell', `echo {{#vm}}"{{name}}${after}{{/vm}}`, value),
        undefined,
        value + after,
      );
  for (const before of ['eval a; echo ', 'echo served at ', 'grep make | echo ', 'NODE_ENV=', 'mkdir -p '])
    assert.equal(await rendered('shell', `${before}{{#vm}}{{name}}{{/vm}}`, '$(id)'), `${before}'$(id)'`);
  assert.equal(
    await rendered('shell', '{{#vm}}echo {{name}} | wc\necho a | sh{{/vm}}', 'a b'),
    "echo 'a b' | wc\necho a | sh",
  );
});

/** Runs a template with harmful values in a shell. No value may run as a command, and no command may receive one as a flag. */
test('a shell runs no command of a value after line continuations, comments and empty strings', async (t) => {
  const dir = tempDir(t);
  for (const template of [
    "true \\\n# don't\necho {{name}}",
    'echo ""# {{name}}',
    "echo ''#{{name}}",
    'echo {{empty}}# {{name}}',
    'echo $(echo)# {{name}}',
    'echo "a\\\n"{{name}}',
    'echo \\\n{{name}}',
    'echo a\u00a0#{{name}}',
    'echo a # b \\\necho {{name}}',
    'echo >&2 {{name}}',
    'echo "a$(echo)" {{name}} "b"',
  ]) {
    const render = await mustache('t', 'hint', () => escaperFor('shell'));
    const names = ["`touch P` #'", '`touch P` #', '; touch P #', '$(touch P)', '"; touch P; "'];
    const scripts = names.map((name) => render(template, { id: 'w', address: 'a', name, empty: '' }));
    for (const shell of ['sh', 'bash']) assert.equal(runEach(shell, scripts, dir).length, scripts.length);
    assert.deepEqual(readdirSync(dir), [], template);
  }
});

test('a shell takes no value for a flag after an empty value, a parameter or a line continuation', async () => {
  for (const before of [
    'rm {{empty}}',
    'rm "{{empty}}"',
    'rm "$A"',
    'rm $A""',
    'rm $@""',
    "rm ''",
    'rm \\\n',
    'rm "\\\n',
    'y=$(rm ',
    'y=`rm ',
    'cat <<EOF\n',
  ])
    assert.equal(await renderedOrRefused('shell', `{{#vm}}${before}{{name}}{{/vm}}`, '-rf'), undefined, before);
  for (const before of ['rm a', 'rm a"', 'rm "$A/"', 'rm ./'])
    assert.equal(await rendered('shell', `{{#vm}}${before}{{name}}{{/vm}}`, '-rf'), `${before}-rf`);
});

test('a shell takes no value for a file descriptor, a keyword or the name of a variable', async () => {
  assert.equal(await rendered('shell', '{{#vm}}echo {{name}}>f{{/vm}}', 2), "echo '2'>f");
  assert.equal(await rendered('shell', '{{#vm}}echo 1{{name}}>f{{/vm}}', '2'), "echo 1'2'>f");
  assert.equal(
    await rendered('shell', '{{#vm}}case a in {{name}}) ;; esac{{/vm}}', 'esac'),
    "case a in 'esac') ;; esac",
  );
  for (const before of ['$', 'echo $A', 'echo "$A', 'echo $(echo $A'])
    assert.equal(await renderedOrRefused('shell', `${before}{{#vm}}{{name}}{{/vm}}`, 'B'), undefined, before);
  for (const before of ['echo $A.', `echo "$${'{A}'}`, "echo '$A", 'echo \\$A'])
    assert.equal(await rendered('shell', `${before}{{#vm}}{{name}}{{/vm}}`, 'B'), `${before}B`);
});

test('a shell script gets no value that a command would take for a flag, and no control characters', async () => {
  for (const value of ['-rf', '--', '-'])
    for (const before of ['rm ', 'rm "', "rm '", 'a;', '(', ''])
      assert.equal(await renderedOrRefused('shell', `${before}{{#vm}}{{name}}{{/vm}}`, value), undefined, before);
  assert.equal(await rendered('shell', 'A={{#vm}}{{name}}{{/vm}}', '-rf'), 'A=-rf');
  for (const format of ['shell', 'nginx', 'html'] as const)
    for (const value of ['a\0', 'a\u001b[2J', 'a\u009b'])
      assert.equal(await renderedOrRefused(format, '{{#vm}}{{name}}{{/vm}}', value), undefined, format);
  for (const value of ['a\nb', 'a\r'])
    for (const format of ['shell', 'nginx'] as const)
      assert.equal(await renderedOrRefused(format, '# {{#vm}}{{name}}{{/vm}}', value), undefined, format);
});

test('sections are escaped where they stand, also if they open or close quotes', async () => {
  const render = await mustache('t', 'hint', () => escaperFor('shell'));
  const view = {
    q: [
      { id: '1', address: 'a', name: "a'b" },
      { id: '2', address: 'a', name: '$(id)' },
    ],
    open: [1],
  };
  const script = render("printf '%s,' {{#open}}'{{/open}}{{#q}}<{{name}}>{{/q}}' {{#q}} {{name}} {{/q}}", view);
  assert.equal(execFileSync('sh', ['-c', script], { encoding: 'utf8' }), "<a'b><$(id)>,a'b,$(id),");
});

/** Splits a configuration as ngx_conf_read_token does. @throws if nginx would refuse it */
function nginxTokens(text: string): string[] {
  const tokens: string[] = [];
  let i = 0;
  while (i < text.length) {
    const start = text[i]!;
    if (/\s/.test(start)) i++;
    else if (start === '#') while (i < text.length && text[i] !== '\n') i++;
    else if (/[;{}]/.test(start)) tokens.push(`<${text[i++]}>`);
    else if (start === '"' || start === "'") {
      let word = '';
      for (i++; text[i] !== start; i++) {
        if (text[i] === undefined) throw new Error('unexpected end');
        if (text[i] === '\\' && /["'\\]/.test(text[i + 1]!)) i++;
        word += text[i];
      }
      i++;
      if (!/[\s;{)]/.test(text[i] ?? ' ')) throw new Error(`unexpected "${text[i]}"`);
      tokens.push(word);
    } else {
      let word = '';
      for (; i < text.length && !/[\s;{]/.test(text[i]!); i++) {
        if (text[i] === '\\' && /["'\\]/.test(text[i + 1]!)) i++;
        word += text[i];
      }
      tokens.push(word);
    }
  }
  return tokens;
}

const NGINX: readonly [template: string, tokens: (value: string) => string[]][] = [
  ['server_name {{#vm}}{{name}};{{/vm}}', (value) => ['server_name', value, '<;>']],
  ['server_name "{{#vm}}{{name}}{{/vm}}";', (value) => ['server_name', value, '<;>']],
  ["add_header X 'a {{#vm}}{{name}}{{/vm}}';", (value) => ['add_header', 'X', `a ${value}`, '<;>']],
  ['#{{#vm}}{{name}}{{/vm}}\nlisten 80;', () => ['listen', '80', '<;>']],
  [
    'server {\n{{#vm}}  listen {{name}}:81; # {{name}}\n{{/vm}}}',
    (value) => ['server', '<{>', 'listen', `${value}:81`, '<;>', '<}>'],
  ],
];

test('nginx reads each value as one word, and a value that cannot be one is refused', async () => {
  for (const [template, tokens] of NGINX) {
    let written = 0;
    for (const value of [...HOSTILE, ...PLAIN]) {
      const text = await renderedOrRefused('nginx', template, value);
      if (text === undefined) continue;
      written++;
      const host = template.includes(':81') && value === 'fd00::1' ? '[fd00::1]' : value;
      assert.deepEqual(nginxTokens(text), tokens(host), text);
    }
    assert.ok(written >= PLAIN.length, template);
  }
  for (const value of ['$host', 'a$b', '~.*', '*.example', 'a\\b'])
    assert.equal(await renderedOrRefused('nginx', 'server_name {{#vm}}{{name}};{{/vm}}', value), undefined, value);
  for (const before of ['location ~ "^/', 'server_name "~^', 'rewrite "^/', 'if ($a ~* "', 'map $a $b {\n  "~'])
    assert.equal(
      await renderedOrRefused('nginx', `a b;\n${before}{{#vm}}{{name}}{{/vm}}"`, '(a+)+'),
      undefined,
      before,
    );
  assert.equal(
    await rendered('nginx', 'location ~ a {}\nA "{{#vm}}{{name}}{{/vm}}";', '(a+)+'),
    'location ~ a {}\nA "(a+)+";',
  );
  assert.equal(await rendered('nginx', 'A {{#vm}}{{name}};{{/vm}}', 'b & "c"'), 'A "b & \\"c\\"";');
});

test('nginx gets no value that it takes for a keyword, a wildcard or the path of a socket', async () => {
  for (const [template, value] of [
    ['allow {{#vm}}{{name}}{{/vm}};', 'all'],
    ['geo $t { default 0; {{#vm}}{{name}}{{/vm}} 1; }', 'default'],
    ['map $a $b { "{{#vm}}{{name}}{{/vm}}" 1; }', 'default'],
    ['map $a $b { {{#vm}}{{name}} {{address}}; {{/vm}} }', 'hostnames'],
    ['map $a $b { {{#vm}}{{name}}{{address}}; {{/vm}} }', 'include'],
    ['server_name {{#vm}}{{name}}{{/vm}};', '.com'],
    ['proxy_pass http://{{#vm}}{{name}}{{/vm}};', 'unix:/run/x.sock:'],
    ['server {{#vm}}{{name}}{{/vm}};', 'unix:/run/x.sock'],
  ])
    assert.equal(await renderedOrRefused('nginx', template!, value), undefined, template);
  const template = 'server_name {{#vm}}{{name}}{{/vm}}.example.com; # {{#vm}}{{name}}{{/vm}}';
  assert.equal(await rendered('nginx', template, 'default'), 'server_name default.example.com; # default');
});

test('JSON has each value as a string, inside of quotes and without them', async () => {
  for (const value of [...HOSTILE, ...PLAIN, '', 'a\nb\u0000\u2028\u009b']) {
    for (const template of ['{"a":"{{#vm}}{{name}}{{/vm}}"}', '{"a":{{#vm}}{{name}}{{/vm}} }']) {
      const text = await rendered('json', template, value);
      assert.deepEqual(JSON.parse(text), { a: value }, text);
      assert.doesNotMatch(text, /[<>&\u2028]/);
    }
  }
  assert.deepEqual(JSON.parse(await rendered('json', '[{{#vm}}{{name}},{{ports.api}}{{/vm}}]', 3001)), [3001, null]);
  assert.deepEqual(JSON.parse(await rendered('json', '[{{#vm}}{{name}}{{/vm}}]', { b: ['"'] })), [{ b: ['"'] }]);
});

test('HTML shows each value as text, in elements and in attributes', async () => {
  const decode = (html: string) =>
    html.replace(/&(?:#(\d+)|(\w+));/g, (_, code: string, name: string) =>
      code ? String.fromCodePoint(Number(code)) : { lt: '<', gt: '>', amp: '&', quot: '"' }[name]!,
    );
  for (const value of [...HOSTILE, ...PLAIN]) {
    const text = await rendered('html', '<p>{{#vm}}{{name}}{{/vm}}</p>', value);
    assert.match(text, /^<p>[^<>"']*<\/p>$/);
    assert.equal(decode(text.slice(3, -4)), value);
    for (const quote of ['"', "'", '']) {
      const tag = await rendered('html', `<p class=x title=${quote}{{#vm}}{{name}}{{/vm}}${quote}>`, value);
      const inside = tag.slice('<p class=x title='.length + quote.length, tag.length - 1 - quote.length);
      assert.doesNotMatch(inside, quote === '' ? /[\s"'=<>`]/ : /[<>"']/);
      assert.equal(decode(inside), value);
    }
    const comment = await rendered('html', '<!-- {{#vm}}{{name}}{{/vm}} -->', value);
    assert.equal(comment.indexOf('-->'), comment.length - 3);
  }
  assert.equal(await rendered('html', '<p title={{#vm}}{{name}}{{/vm}} id=a>', ''), '<p title="" id=a>');
});

test('HTML code, tags and script URLs get plain values only', async () => {
  const code = [
    '<script>var a = "',
    '<style>',
    '<a onclick="f(\'',
    '<a x="y"onclick="',
    '<a/onclick=',
    '<p style="',
    '<',
    '<a ',
    '<p><SCRIPT>',
  ];
  for (const before of code) {
    for (const value of ["');alert(1)//", 'a b', '"', 'onclick=alert'])
      assert.equal(await renderedOrRefused('html', `${before}{{#vm}}{{name}}{{/vm}}`, value), undefined, before);
  }
  assert.equal(
    await rendered('html', '<script>var a = "{{#vm}}{{name}}{{/vm}}"</script>', 'a.b'),
    '<script>var a = "a.b"</script>',
  );
  for (const before of ['<a href="', '<a href=', '<img alt="a" src=\'', '<a href="java'])
    for (const value of [
      'javascript:alert(1)',
      ' JavaScript:alert(1)',
      'java\tscript:a',
      'script:a',
      'data:text/html,a',
    ]) {
      const text = await renderedOrRefused('html', `${before}{{#vm}}{{name}}{{/vm}}`, value);
      if (text !== undefined) assert.doesNotMatch(text, /(href|src)=["']?(\s*javascript|data):/i);
    }
  assert.equal(
    await rendered('html', '<a href="http://{{#vm}}{{name}}{{/vm}}/">', 'a.b:80'),
    '<a href="http://a.b:80/">',
  );
});

test('no value makes an HTML page load code from another host', async () => {
  for (const [before, value] of [
    ['<script src="', 'https://evil/x.js'],
    ['<script src=', '//evil/x.js'],
    ['<script src="/', '/evil/x.js'],
    ['<script src="/', '\\evil/x.js'],
    ['<base href="', 'https://evil/'],
    ['<embed src="', 'https://evil/x'],
    ['<link rel=stylesheet href="', 'https://evil/x.css'],
    ['<svg><animate attributeName=href values="', 'javascript:alert(1)'],
    ['<svg><animate attributeName=href values="a;', 'javascript:alert(1)'],
    ['<meta http-equiv=refresh content="0;url=', 'javascript:alert(1)'],
  ])
    assert.equal(await renderedOrRefused('html', `${before}{{#vm}}{{name}}{{/vm}}`, value), undefined, before);
  for (const [before, value] of [
    ['<script src="/js/', 'a.js'],
    ['<script src="https://', 'cdn.example.com'],
    ['<a href="', 'https://a/'],
  ])
    assert.equal(await rendered('html', `${before}{{#vm}}{{name}}{{/vm}}`, value), `${before}${value}`);
});

test('no value becomes part of the name of an HTML tag or attribute', async () => {
  for (const before of ['<', '</', '<s', '<a ', '<a on', '<a b=c ', '</p', '<script>a</script'])
    for (const value of ['cript', 'onclick', '', 'a'])
      assert.equal(await renderedOrRefused('html', `${before}{{#vm}}{{name}}{{/vm}}`, value), undefined, before);
});

test('without a format, a value that may need escaping is refused; triple braces insert it unescaped', async () => {
  for (const value of [...HOSTILE, 'a\nb', { a: 1 }])
    assert.equal(await renderedOrRefused(undefined, '{{#vm}}{{name}}{{/vm}}', value), undefined, String(value));
  for (const value of [...PLAIN, '[fd00::1]:80', '', 3001, null, undefined])
    assert.equal(await rendered(undefined, '{{#vm}}{{name}}{{/vm}}', value), String(value ?? ''));
  for (const format of [undefined, 'shell', 'nginx', 'html'] as const)
    for (const template of ['{{#vm}}{{{name}}}{{/vm}}', '{{#vm}}{{&name}}{{/vm}}'])
      assert.equal(await rendered(format, template, '$(id)\n'), '$(id)\n');
});

test('an IPv6 address gets brackets before a port and in a URL', async () => {
  for (const [template, address, expected] of [
    ['{{address}}:{{ports.a}}', 'fd00::1', '[fd00::1]:82'],
    ['{{address}}:{{ports.a}}', '[fd00::1]', '[fd00::1]:82'],
    ['{{address}}:{{ports.a}}', '[fd00::1]:81', '[fd00::1]:82'],
    ['{{address}}:{{ports.a}}', '10.0.0.1:81', '10.0.0.1:82'],
    ['{{address}}:82', 'a.b', 'a.b:82'],
    ['http://{{address}}/', 'fd00::1', 'http://[fd00::1]/'],
    ['http://{{address}}/', '[fd00::1]:81', 'http://[fd00::1]:81/'],
    ['http://{{address}}/', '10.0.0.1:81', 'http://10.0.0.1:81/'],
    ['{{address}} {{id}}', 'fd00::1', 'fd00::1 w'],
    ['{{address}}: {{id}}', '10.0.0.1:81', '10.0.0.1:81: w'],
    ['http://u@{{address}}/', 'fd00::1', 'http://u@[fd00::1]/'],
    ['http://{{id}}@{{address}}/', 'fd00::1', 'http://w@[fd00::1]/'],
    ['{{address}}{{^none}}:80{{/none}}', 'fd00::1', '[fd00::1]:80'],
    ['{{#ports}}{{address}}{{/ports}}:80', 'fd00::1', '[fd00::1]:80'],
    ['{{address}}{{#ports}}:{{a}}{{/ports}}', 'fd00::1', '[fd00::1]:82'],
  ] as const) {
    for (const format of [undefined, 'nginx', 'json', 'html'] as const) {
      const text = format === 'json' ? `"${template}"` : template;
      const render = await mustache('t', 'hint', () => escaperFor(format));
      const result = render(`{{#vm}}${text}{{/vm}}`, { vm: [{ id: 'w', address, ports: { a: 82 } }] });
      assert.equal(result, format === 'json' ? `"${expected}"` : expected);
    }
  }
});

test('an IPv6 address gets brackets before a port that a shell joins to its word', async () => {
  const render = await mustache('t', 'hint', () => escaperFor('shell'));
  for (const [template, expected] of [
    ['A="{{address}}":80', 'A="[fd00::1]":80'],
    ["A='{{address}}':80", "A='[fd00::1]':80"],
    ['A={{address}}\\:80', "A='[fd00::1]'\\:80"],
    ['A="{{address}}"', 'A="fd00::1"'],
  ])
    assert.equal(render(template!, { id: 'w', address: 'fd00::1' }), expected);
});

test('jsonpath joins host and port like a template', async () => {
  for (const [path, address, expected] of [
    ['{.address}:80', '10.0.0.1:3000', '10.0.0.1:80'],
    ["{['address']}:80", '[fd00::1]:3000', '[fd00::1]:80'],
    ['{.address}:{.port}', 'fd00::1', '[fd00::1]:82'],
    ['{.address}: up', '10.0.0.1:3000', '10.0.0.1:3000: up'],
    ['http://u@{.address}/', 'fd00::1', 'http://u@[fd00::1]/'],
    ['http://{.address}/', '10.0.0.1:3000', 'http://10.0.0.1:3000/'],
  ] as const)
    assert.equal((await evaluateJsonPath(path, { address, port: 82 })).text, expected);
});

test('nginx gets brackets around IPv6 where it needs a host, and none where it needs an address', async () => {
  const render = await mustache('t', 'hint', () => escaperFor('nginx'));
  for (const [template, expected] of [
    ['upstream a {\n  server {{address}};\n}', 'upstream a {\n  server [fd00::1];\n}'],
    ['server "{{address}}";', 'server "[fd00::1]";'],
    ['listen {{address}};', 'listen [fd00::1];'],
    ['grpc_pass {{address}};', 'grpc_pass [fd00::1];'],
    ['resolver 10.0.0.1 {{address}};', 'resolver 10.0.0.1 [fd00::1];'],
    ['allow {{address}};', 'allow fd00::1;'],
    ['# {{address}}', '# fd00::1'],
  ])
    assert.equal(render(template!, { id: 'w', address: 'fd00::1' }), expected);
});

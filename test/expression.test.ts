/** `-o jsonpath=…` and `-o template=…`. */
import assert from 'node:assert/strict';
import test, { after } from 'node:test';
import { serveApp } from './helpers/app.ts';
import { seed, vreg } from './helpers/cli.ts';
import { startPlainServer } from './helpers/original-server.ts';
import { aVm } from './helpers/vm.ts';

const FLEET = [
  aVm({
    id: 'a',
    name: 'alpha',
    address: '10.0.0.1',
    metadata: { task: 'billing', n: 1, 'my-key': 2, 'app.io/name': 'x' },
  }),
  aVm({ id: 'b', name: 'O\'Brien & "Co" <b>', role: 'infra', services: [{ name: 'api', port: 80 }] }),
];

const { url, store } = await serveApp({ after });
await seed(url, FLEET);

const EXPRESSIONS: readonly [argv: string, format: string, stdout: string][] = [
  ['get a', 'jsonpath={.address}', '10.0.0.1\n'],
  ['get a', 'jsonpath=.address', '10.0.0.1\n'],
  ['get a', 'jsonpath=address', '10.0.0.1\n'],
  ['get a', 'jsonpath=$.metadata.n', '1\n'],
  ['get a', 'jsonpath=$.metadata', '{"task":"billing","n":1,"my-key":2,"app.io/name":"x"}\n'],
  ['get a', 'jsonpath={.name} is {.status}', 'alpha is running\n'],
  ['get a', 'jsonpath={.id}\\t{.name}\\n', 'a\talpha\n'],
  ['get a', 'jsonpath={.metadata.my-key} {.metadata.app\\.io/name}', '2 x\n'],
  ['get a', 'jsonpath={.name}{.nope}', 'alpha\n'],
  ['get a', 'jsonpath={"\\"id\\": "}{.id}{"\\n\\ttab\\n"}', '"id": a\n\ttab\n'],
  ['get a', 'jsonpath={"only text"}', 'only text\n'],
  ['why a', 'jsonpath={.reasons[*].code}', ''],
  ['ls --sort id', 'jsonpath={.items[*].id}', 'a b\n'],
  ['ls --sort id', 'jsonpath=$.items[*].id', 'a\nb\n'],
  ['ls --sort id', 'jsonpath={range .items[*]}{.id}{"\\t"}{.address}{"\\n"}{end}', 'a\t10.0.0.1\nb\tvm-1.vm.vers.sh\n'],
  ['ls --sort id', 'jsonpath={range .items[*]}{.id}:{range .services[*]}{.name}{end};{end}', 'a:;b:api;\n'],
  ['ls --sort id', 'jsonpath={range .items[*]}{$.items[0].id}{@.id} {end}', 'aa ab \n'],
  ['ls --sort id', 'jsonpath={.items[?(@.role=="infra")].id}', 'b\n'],
  ['ls --sort id', 'jsonpath={.items[?(@.metadata.my-key==2)].id}', 'a\n'],
  ['ls --sort id', 'jsonpath={.items[?(@.services)].services[?(@.port<100)].name}', 'api\n'],
  ['ls --sort id', 'jsonpath={.items[?(@.services[0].port==80)].id}', 'b\n'],
  ['ls --sort id', "jsonpath={.items[?(@['services'][0].name == 'api' && @.id != 'a')].id}", 'b\n'],
  ['ls --sort id', 'jsonpath={.items[?(79<@["services"][-1].port)].id}', 'b\n'],
  ['ls --sort id', 'jsonpath={.items[?(@.services[0].port>80)].id}', ''],
  ['ls --sort id', 'jsonpath={.items[?(@.services[ 0 ].port >= $.items[1].services[0].port)].id}', 'b\n'],
  ['ls --sort id', 'jsonpath={.items[?(@.services[?(@.port==80)])].id}', 'b\n'],
  ['ls --sort id', 'jsonpath={.items[?(value(@.services[0].port)==80)].id}', 'b\n'],
  ['ls --sort id', 'jsonpath={.items[?(length(@.services[0].name)==3)].id}', 'b\n'],
  ['ls --sort id', 'jsonpath={.items[?(@.services[0])].id}', 'b\n'],
  ['ls --sort id', "jsonpath={.items[*]['id','role']}", 'a worker b infra\n'],
  ['ls --sort id', 'jsonpath={.items[-1].id} {.items[0:1].id} {..port}', 'b a 80\n'],
  ['ls --sort id', 'jsonpath={.items[*].nope}', ''],
  ['ls --sort id', 'jsonpath={range .items[*]}{.nope}{end}', ''],
  ['get a b', 'jsonpath={.items[*].id}', 'a b\n'],
  ['get a b', 'jsonpath={.nope}', ''],
  ['get b', "jsonpath=$.services[?(@.name=='api')].port", '80\n'],
  ['ls --sort id', 'jsonpath=$[*].id', 'a\nb\n'],
  ['ls --sort id', 'jsonpath={[*].id}', 'a b\n'],
  ['ls --sort id', "jsonpath=$[?(@.role=='infra')].id", 'b\n'],
  ['ls --role golden', 'jsonpath=$[*].id', ''],
  ['get a', 'template={{name}} {{address}}\\n', 'alpha 10.0.0.1\n'],
  ['get a', 'template={{metadata.task}}', 'billing'],
  ['get a', 'template={{nope}}', ''],
  ['get b', 'template={{name}}', 'O\'Brien & "Co" <b>'],
  ['get b', 'template={{#services}}{{name}}:{{port}}{{/services}}', 'api:80'],
  ['ls --sort id', 'template={{id}} {{role}}\\n', 'a worker\nb infra\n'],
  ['ls --role golden', 'template={{id}}\\n', ''],
  ['addr infra', 'jsonpath={.id}={.address}', 'b=vm-1.vm.vers.sh\n'],
  ['addr infra', 'template={{id}}', 'b'],
];

for (const [argv, format, stdout] of EXPRESSIONS) {
  test(`vreg ${argv} -o '${format}'`, async () => {
    assert.deepEqual(await vreg([...argv.split(' '), '-o', format], { url }), { code: 0, stdout, stderr: '' });
  });
}

for (const [argv, format] of [
  ['get a', 'jsonpath=$.nope'],
  ['get a', 'jsonpath={.nope}'],
  ['get a', 'jsonpath=task {.nope}{.metadata.nope}'],
  ['get a', 'jsonpath={range .services[*]}{.name}{end}'],
  ['get a', 'jsonpath={.items[*].id}'],
  ['addr infra', 'jsonpath={.nope}'],
  ['why a', 'jsonpath={.nope}'],
] as const) {
  test(`vreg ${argv} -o '${format}' matches nothing and exits with 3`, async () => {
    assert.deepEqual(await vreg([...argv.split(' '), '-o', format], { url }), {
      code: 3,
      stdout: '',
      stderr: `vreg: the jsonpath "${format.slice(9)}" matches nothing\nhint: see the available fields with -o json\n`,
    });
  });
}

const BAD: readonly [format: string, message: RegExp][] = [
  [
    'jsonpath=$[',
    /^vreg: invalid jsonpath "\$\[" at position 3: unexpected end\nhint: for example -o jsonpath='\{\.address\}' for one VM/,
  ],
  ['jsonpath=', /^vreg: invalid jsonpath "" at position 1: unexpected end\nhint: /],
  ['jsonpath={.name', /^vreg: invalid jsonpath "\{\.name" at position 7: unexpected end\nhint: /],
  ['jsonpath={.a b}', / at position 5: unexpected "b"\n/],
  ['jsonpath={.a | length}', / at position 5: unexpected "\|"\n/],
  ['jsonpath={if .a}', / at position 5: unexpected "\."\n/],
  ['jsonpath={}', / at position 2: unexpected "\}"\n/],
  ['jsonpath={range .items[*]}{.id}', / at position 1: \{range\} without \{end\}\n/],
  ['jsonpath={.id}{end}', / at position 6: \{end\} without \{range\}\n/],
  ['jsonpath={.items[?(@.role =~ "x")].id}', / at position 18: the operator =~ is not supported; use match/],
  ['jsonpath={.items[?(@.role="x")].id}', / at position 17: unexpected "="\n/],
  ['jsonpath={.items[?(@.services[0].port==80 x)].id}', / at position 34: unexpected "x"\n/],
  ['jsonpath={.items[?(@.services[*].port==80)].id}', / at position \d+: unexpected "="\n/],
  ['jsonpath=ids: {.items[abc]}', / at position 14: unexpected "a"\n/],
  ['jsonpath={.items[*].id,.name}', / at position 14: unexpected ","\n/],
  [
    'template={{#a}}',
    /^vreg: template: Unclosed section "a".*\nhint: for example: -o template='\{\{name\}\} \{\{address\}\}\\n'\n$/,
  ],
  ['template={{a', /^vreg: template: Unclosed tag.*\nhint: /],
  ['jsonpth=x', /^vreg: invalid output "jsonpth=x".*\nhint: one of: table, .*jsonpath=/],
];

for (const [format, message] of BAD) {
  test(`-o '${format}' exits with 5 before the command does anything`, async () => {
    const result = await vreg(['rm', 'a', '--yes', '-o', format], { url });
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
    assert.equal(store.vms.size, 2);
  });
}

test('VREG_OUTPUT may contain an expression', async () => {
  const env = { VREG_OUTPUT: 'jsonpath={.address}' };
  assert.equal((await vreg(['get', 'a'], { url, env })).stdout, '10.0.0.1\n');
});

test('control characters in the result of an expression are replaced', async (t) => {
  const { url, vms } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' })]);
  vms.get('a')!.name = 'x\u001b[2Jy';
  for (const format of ['jsonpath={.name}', 'template={{name}}\\n']) {
    assert.equal((await vreg(['get', 'a', '-o', format], { url })).stdout, 'x\ufffd[2Jy\n');
  }
});

test('an IPv6 address gets brackets before a port and in a URL', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', address: 'fd00::1', services: [{ name: 'api', port: 82 }] })]);
  for (const [format, stdout] of [
    ['jsonpath={.address}', 'fd00::1\n'],
    ['jsonpath={.address}:{.services[0].port}', '[fd00::1]:82\n'],
    ['jsonpath=http://{.address}/', 'http://[fd00::1]/\n'],
    ['template={{address}}\\n', 'fd00::1\n'],
    ['template={{address}}:82\\n', '[fd00::1]:82\n'],
    ['template=http://{{address}}/\\n', 'http://[fd00::1]/\n'],
  ] as const)
    assert.equal((await vreg(['get', 'a', '-o', format], { url })).stdout, stdout, format);
});

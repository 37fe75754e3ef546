import { readFile } from 'node:fs/promises';
import { defineCommand } from '../command.ts';
import { VregError } from '../protocol/errors.ts';
import { maskName } from '../protocol/redact.ts';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;

export const api = defineCommand<{ file?: string }>({
  name: 'api',
  summary: 'ask any route of the registry',
  description:
    'Sends a request with the settings of every command (URL, token, CA) and prints the body of the answer as it came, also of an error, but without the token if that comes back in one.',
  arguments: [
    { name: 'method', about: 'method', values: METHODS },
    { name: 'path', about: 'path, with its query' },
  ],
  flags: [{ flags: '-f, --file <file>', about: 'body, from a file or - for stdin', file: true }],
  examples: [
    { about: 'a read', command: "vreg api GET '/registry/vms?role=worker'" },
    { about: 'a write', command: `echo '{"status":"paused"}' | vreg api PATCH /registry/vms/abc-123-def -f -` },
    { about: 'is it well?', command: 'vreg api GET /health' },
  ],
  exits: [2, 3, 4, 8],
  async run(context, [method, path], { file }) {
    const verb = method!.toUpperCase();
    if (!METHODS.some((known) => known === verb)) {
      throw new VregError('USAGE', `"${method}" is not a method`, {
        field: 'method',
        hint: `one of: ${METHODS.join(', ')}`,
      });
    }
    if (!/^\/[!-~]*$/.test(path!))
      throw new VregError('USAGE', `"${maskName(path!)}" is not a path`, {
        field: 'path',
        hint: 'it begins with / and is URL-encoded, for example /health',
      });
    const body = file === undefined ? undefined : await read(file, context.io.readStdin);
    const reply = await context.client().raw(verb, path!, body);
    const { status, headers, text } = reply;
    const type = String(headers['content-type'] ?? 'text/plain');
    if (!/json|^text\//.test(type)) {
      throw new VregError('USAGE', `${path} is answered with ${type}, which is no text`, {
        field: 'path',
        hint: 'for a backup: vreg backup FILE',
      });
    }
    context.io.out(text === '' || text.endsWith('\n') ? text : `${text}\n`);
    if (status >= 400) throw context.client().refusal(reply, `${verb} ${path} was answered with ${status}`);
  },
});

function read(file: string, stdin: () => Promise<string>): Promise<string> {
  if (file === '-') return stdin();
  return readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new VregError('USAGE', `cannot read ${file} (${cause.code})`, {
      field: 'file',
      hint: 'check its path and mode',
      cause,
    });
  });
}
